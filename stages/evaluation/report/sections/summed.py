"""Scores put together: forgetting against retention, multiple choice, Performance Shift."""

from collections.abc import Mapping
from itertools import product

from stages.evaluation.report import plots
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.document import Block, Figure, Missing, Panel, Prose, Section
from stages.evaluation.report.parts import missing, shift_reason
from stages.evaluation.report.rows import Audit, Role
from stages.evaluation.report.tables import Line, mark, remarks_of, score, table
from stages.evaluation.report.words import NO_VALUE, metric_name, points, signed


def trade(audit: Audit, answers: Answers, others: Mapping[str, Audit], run: str) -> Section:
    """Forgetting against retention: one picture per pair of files; further runs as further points."""
    title = "Forgetting and retention"
    if not audit.forget_files or not audit.kept_files:
        reason = "questions on what is to be forgotten and on what is to be kept are needed"
        return Section("trade", title, (Missing(title, reason),))
    models: list[tuple[str, Role, Answers]] = [("", role, answers) for role in audit.roles if role != "student"]
    # Markers tell models; only runs need names.
    own = run if others else ""
    models += [(own, "student", answers), *((label, "student", Answers(each)) for label, each in others.items())]
    panels: list[Panel] = []
    rows: list[Line] = []
    for forget, kept in product(audit.forget_files, audit.kept_files):
        dots = [
            (label, role, mark(x), mark(y))
            for label, role, said in models
            if (x := said.score(role, forget)) and (y := said.score(role, kept))
        ]
        told = "; ".join(f"{label or role} {points(x.mean)} and {points(y.mean)}" for label, role, x, y in dots)
        picture = plots.cloud(f"trade{len(panels)}", dots, f"recall on {forget}  (← better)", f"{kept}  (better →)")
        panels.append(Panel(f"Recall on {forget} and on {kept}: {told}.", "", picture))
        rows += [(forget, kept, label or role, score(x), score(y)) for label, role, x, y in dots]
    figure = Figure(
        "Forgetting against retention",
        "The best place is up and to the left. Lines are 95 % intervals; the two of a model are not paired.",
        tuple(panels),
        table(
            "Recall in points on what is to be forgotten and on what is to be kept, with 95 % intervals",
            ("forget", "keep", "model", "recall, forget ↓", "recall, keep ↑"),
            rows,
            folded=True,
        ),
        audit.roles,
    )
    return Section("trade", title, (figure,))


def choices(audit: Audit) -> Section:
    """Multiple choice by likelihood."""
    title = "Multiple choice"
    if reason := missing(audit, "choices"):
        return Section("choices", title, (Missing("Multiple choice by likelihood", reason),))
    found = {(row.file, row.metric, row.model): row for row in audit.choices or ()}
    rows: list[Line] = []
    for file, metric in dict.fromkeys((row.file, row.metric) for row in audit.choices or ()):
        own = [found.get((file, metric, role)) for role in audit.roles]
        n = next(row.n for row in own if row)
        rows.append((file, metric_name(metric), str(n), *map(score, own)))
    shown = table(
        "Share answered rightly by the likeliest option, in points, with 95 % intervals over n questions ↑",
        ("questions", "metric", "n", *audit.roles),
        rows,
        missing="not measured: not among evaluation.choice_models",
    )
    return Section("choices", title, (shown, *remarks_of(audit, "choices")))


def shift(audit: Audit) -> Section:
    """The paper's one-number score and its four parts."""
    found = audit.performance_shift
    blocks: list[Block] = []
    if found.value is None:
        blocks.append(Missing("Performance Shift", "not all of its four parts were measured"))
        if found.sum_of_measured is not None:
            told = f"What was measured adds up to {signed(found.sum_of_measured)}, which is another figure."
            blocks.append(Prose(told, quiet=True))
    else:
        blocks.append(Prose(f"Performance Shift is {signed(found.value)} points, the sum of its four parts."))
    rows = [
        (part, NO_VALUE, f"not measured: {shift_reason(audit, part)}") if amount is None else (part, signed(amount), "")
        for part, amount in found.parts.items()
    ]
    rows += [
        (file, signed(each.part), f"stands where {each.stands_for} would, and enters no sum")
        for file, each in found.stand_ins.items()
    ]
    caption = "Parts in points, more is better: base less student where forgotten, student less base where kept"
    blocks.append(table(caption, ("part", "points", "remark"), rows, missing=""))
    return Section("shift", "Performance Shift", tuple(blocks))
