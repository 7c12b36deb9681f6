"""What is left when the model itself is changed: weights rounded, weights trained further."""

from collections.abc import Iterator

from stages.evaluation.metrics import Interval
from stages.evaluation.report import plots
from stages.evaluation.report.document import Block, Cell, Figure, Missing, Panel, Prose, Section
from stages.evaluation.report.parts import missing
from stages.evaluation.report.plots import Mark
from stages.evaluation.report.rows import Audit, Quantised, Relearning, Role
from stages.evaluation.report.tables import by_role, change, mark, remarks_of, roles_of, score, table
from stages.evaluation.report.words import RECALL, metric_name, points, signed


def quantisation(audit: Audit) -> Section:
    """Rounded weights: what 8 and 4 bits change."""
    if reason := missing(audit, "quantisation"):
        return Section("quantisation", "Quantisation", (Missing("Quantisation", reason),))
    found = audit.quantisation or ()
    roles = roles_of(found)
    main = RECALL if any(row.metric == RECALL for row in found) else found[0].metric
    lines: list[tuple[str, dict[Role, Mark]]] = []
    for file, weights in dict.fromkeys((row.file, row.weights) for row in found if row.metric == main):
        own = [row for row in found if (row.file, row.weights, row.metric) == (file, weights, main)]
        marks: dict[Role, Mark] = {
            row.model: Mark(row.delta, row.delta_low, row.delta_high) for row in own if row.delta is not None
        }
        if marks:
            lines.append((f"{file}, {weights}", marks))
    told = "; ".join(
        f"{label}: {', '.join(f'{role} {signed(each.mean)}' for role, each in marks.items())}" for label, marks in lines
    )
    panels: tuple[Panel, ...] = ()
    if lines:
        picture = plots.rows_of_intervals("quantisation", lines, "change, points", expected=0)
        panels = (Panel(f"Change of {metric_name(main)} by rounding, in points: {told}.", "", picture),)
    figure = Figure(
        f"What rounding the weights changes in {metric_name(main)}",
        "Against the same model unrounded, paired, in points with 95 % intervals.",
        panels,
        table(
            "Scores with rounded weights in points, and their change against the same model unrounded, with 95 % intervals",
            ("questions", "weights", "metric", "model", "n", "score", "change"),
            [
                (row.file, row.weights, metric_name(row.metric), row.model, str(row.n), score(row), change(_delta(row)))
                for row in found
            ],
            folded=True,
        ),
        roles,
    )
    return Section("quantisation", "Quantisation", (figure, *remarks_of(audit, "quantisation")))


def relearning(audit: Audit) -> Section:
    """Further training: the student's curve beside the control's."""
    if reason := missing(audit, "relearning"):
        return Section("relearning", "Relearning", (Missing("Relearning", reason),))
    found = audit.relearning or ()
    roles = roles_of(found)
    blocks: list[Block] = []
    if "control" not in roles:
        why = missing(audit, "control") or "it was not trained further"
        blocks.append(Missing("Relearning of a control", why))
        blocks.append(
            Prose(
                "Recovery cannot be read from these curves: without a control that was trained alike, what the student relearns "
                "cannot be told from what any model learns from the same text."
            )
        )
    main = RECALL if any(row.metric == RECALL for row in found) else found[0].metric
    panels: list[Panel] = []
    for trained_on, file in dict.fromkeys((row.trained_on, row.file) for row in found if row.metric == main):
        own = [row for row in found if (row.trained_on, row.file, row.metric) == (trained_on, file, main)]
        curves = {role: {float(row.step): mark(row) for row in own if row.model == role} for role in roles}
        curves = {role: curve for role, curve in curves.items() if curve}
        told = "; ".join(
            f"{role} from {points(curve[min(curve)].mean)} to {points(curve[max(curve)].mean)}"
            for role, curve in curves.items()
        )
        picture = plots.curves(f"relearning{len(panels)}", curves, "steps", f"{metric_name(main)}, points")
        title = f"{file}, trained on {trained_on} text"
        panels.append(Panel(f"{title}, {metric_name(main)} in points: {told}.", title, picture))
    blocks.append(
        Figure(
            f"{metric_name(main)} while the models are trained further",
            "A student that only hides what it knows climbs faster than a control that never knew. Bands are 95 % intervals.",
            tuple(panels),
            table(
                "Scores in points with 95 % intervals over n questions, by steps of further training",
                ("trained on", "questions", "metric", "steps", "n", *roles),
                list(_relearning_rows(found, roles)),
                folded=True,
            ),
            roles,
        )
    )
    return Section("relearning", "Relearning", (*blocks, *remarks_of(audit, "relearning")))


def _relearning_rows(found: tuple[Relearning, ...], roles: tuple[Role, ...]) -> Iterator[list[Cell | str]]:
    places = dict.fromkeys((row.trained_on, row.file, row.metric, row.step) for row in found)
    for trained_on, file, metric, step in sorted(places):
        place = (trained_on, file, metric, step)
        own = {row.model: row for row in found if (row.trained_on, row.file, row.metric, row.step) == place}
        n = str(next(iter(own.values())).n)
        yield [trained_on, file, metric_name(metric), str(step), n, *by_role(own, roles)]


def _delta(row: Quantised) -> Interval | None:
    return None if row.delta is None else Interval(row.delta, row.delta_low, row.delta_high, row.n)
