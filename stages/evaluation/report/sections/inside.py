"""What the weights show without asking: logit lens, weight change per layer, membership."""

from stages.evaluation.report import plots
from stages.evaluation.report.document import Block, Cell, Figure, Missing, Panel, Section
from stages.evaluation.report.parts import missing
from stages.evaluation.report.plots import Mark
from stages.evaluation.report.rows import Audit, Role
from stages.evaluation.report.tables import Line, by_role, mark, remarks_of, roles_of, table
from stages.evaluation.report.words import interval, points


def layers(audit: Audit) -> Section:
    """Where along the layers the answer can be read off, and where the weights moved."""
    return Section("layers", "Layers", (*_lens(audit), *_weight_change(audit)))


def _lens(audit: Audit) -> list[Block]:
    if reason := missing(audit, "lens"):
        return [Missing("Logit lens", reason)]
    found = audit.lens or ()
    roles = roles_of(found)
    panels: list[Panel] = []
    rows: list[Line] = []
    for file in dict.fromkeys(row.file for row in found):
        curves = {
            role: {float(row.layer): mark(row) for row in found if (row.file, row.model) == (file, role)}
            for role in roles
        }
        curves = {role: curve for role, curve in curves.items() if curve}
        told = []
        for role, curve in curves.items():
            top = max(curve, key=lambda layer: curve[layer].mean)
            told.append(f"{role} at most {points(curve[top].mean)}, at layer {top:g}")
        picture = plots.curves(f"lens{len(panels)}", curves, "layer", "probability, points")
        panels.append(Panel(f"Logit lens on {file}: {'; '.join(told)}.", f"On {file}", picture))
        for layer in sorted({row.layer for row in found if row.file == file}):
            own = {row.model: row for row in found if (row.file, row.layer) == (file, layer)}
            rows.append((file, str(layer), str(next(iter(own.values())).n), *by_role(own, roles)))
    figure = Figure(
        "Logit lens: the true answer's first token, layer by layer",
        "Probability at the last position of the prompt, in points, read off through the final norm and head. Layer 0 is the "
        "embedding. A peak below the last layer means that the answer is still there and is overwritten later.",
        tuple(panels),
        table(
            "Probability of the true answer's first token in points, with 95 % intervals over n questions",
            ("questions", "layer", "n", *roles),
            rows,
            folded=True,
        ),
        roles,
    )
    return [figure, *remarks_of(audit, "lens")]


def _weight_change(audit: Audit) -> list[Block]:
    if reason := missing(audit, "weight_change"):
        return [Missing("Weight change per layer", reason)]
    found = audit.weight_change or ()
    # A layer that was all zeros has no share of its own norm.
    shares = [(row.layer, None if row.relative is None else 100 * row.relative) for row in found]
    drawn = [(layer, share) for layer, share in shares if share is not None]
    if not drawn:
        return [Missing("Weight change per layer", "every layer of the base was all zeros")]
    layer, most = max(drawn, key=lambda each: each[1])
    picture = plots.bars("weights", drawn, "layer", "‖Δθ‖ / ‖θ‖, %")
    figure = Figure(
        "How far the weights moved",
        "‖Δθ‖₂ of student against base, as a share of the base's own norm, in per cent, from the embedding to the head.",
        (
            Panel(
                f"Relative weight change by layer; largest at {layer}: {points(most, 2)} %.",
                "",
                picture,
            ),
        ),
        table(
            "Norm of the weight change, student against base",
            ("layer", "‖Δθ‖₂", "‖Δθ‖ / ‖θ‖, %"),
            [(row.layer, points(row.norm, 4), points(share, 3)) for row, (_, share) in zip(found, shares, strict=True)],
            folded=True,
        ),
    )
    return [figure, *remarks_of(audit, "weight_change")]


def membership(audit: Audit) -> Section:
    """Can the text that was to be forgotten be told from other text by its likelihood?"""
    if reason := missing(audit, "membership"):
        return Section("membership", "Membership", (Missing("Membership", reason),))
    found = audit.membership or ()
    roles = roles_of(found)
    lines: dict[str, dict[Role, Mark]] = {}
    for row in found:
        label = f"{row.file}, {row.score.replace('_', '-')}"
        lines.setdefault(label, {})[row.model] = Mark(row.auc, row.low, row.high)
    expected = sorted({row.expected for row in found})
    told = "; ".join(
        f"{label}: {', '.join(f'{role} {points(each.mean)}' for role, each in marks.items())}"
        for label, marks in lines.items()
    )
    picture = plots.rows_of_intervals(
        "membership", list(lines.items()), "AUC, points", expected=expected[0] if len(expected) == 1 else None
    )
    figure = Figure(
        "Membership inference",
        f"AUC in points. {' or '.join(points(each) for each in expected)} is expected of a model that never saw either text; "
        "above it, the text is still recognised, below it, it is conspicuously avoided.",
        (Panel(f"AUC in points, expected {points(expected[0])}: {told}.", "", picture),),
        table(
            "AUC of telling the text from other text, in points, with 95 % intervals",
            ("questions", "score", "compared with", "model", "n", "n, others", "AUC", "expected"),
            [
                (row.file, row.score.replace("_", "-"), row.compared_with, row.model, str(row.n), str(row.n_others),
                 Cell(points(row.auc), interval(row.low, row.high)), points(row.expected))
                for row in found
            ],
        ),
        roles,
    )  # fmt: skip
    return Section("membership", "Membership", (figure, *remarks_of(audit, "membership")))
