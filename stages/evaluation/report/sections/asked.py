"""What brings answers back when it is asked: attacks, and many sampled answers."""

from stages.evaluation.report import plots
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.document import Block, Cell, Figure, Missing, Panel, Section, Table
from stages.evaluation.report.parts import missing, missing_attacks
from stages.evaluation.report.plots import Mark
from stages.evaluation.report.rows import Audit, Role, Score
from stages.evaluation.report.tables import Line, by_role, change, mark, remarks_of, roles_of, score, table
from stages.evaluation.report.words import RECALL, attack_name, listed, points, signed

CHANGES = "Change of recall against the same questions without the attack, paired. Right of zero, answers come back."
SUPPLIED = "These prompts supply the answer among others: a hit is recognition, and a guess may hit, too. No part of the verdict."


def attacks(audit: Audit, answers: Answers) -> Section:
    """What each attack changes; those that supply the answer apart, those that were not made with their reasons."""
    blocks: list[Block] = []
    for supplied in (False, True):
        rows = [row for row in audit.scores if row.attack and row.metric == RECALL and row.supplies_answer is supplied]
        if rows:
            blocks.append(_attack_figure(answers, rows, supplied=supplied))
    if not blocks:
        blocks.append(Missing("Attacks", "none was made"))
    why: dict[str, list[str]] = {}
    for name, reason in missing_attacks(audit).items():
        why.setdefault(reason, []).append(attack_name(name))
    blocks += [
        Missing(f"{'Attack' if len(names) == 1 else 'Attacks'} {listed(names)}", reason)
        for reason, names in why.items()
    ]
    return Section("attacks", "Attacks", tuple(blocks))


def _attack_figure(answers: Answers, rows: list[Score], *, supplied: bool) -> Figure:
    roles = roles_of(rows)
    drawn = tuple(role for role in ("student", "control") if role in roles) or roles
    found = {(row.file, row.attack, row.model): row for row in rows}
    panels: list[Panel] = []
    for file in dict.fromkeys(row.file for row in rows):
        names = dict.fromkeys(row.attack for row in rows if row.file == file)
        changes: dict[str, dict[Role, Mark]] = {}
        for name in names:
            marks = {
                role: Mark(moved.mean, moved.low, moved.high)
                for role in drawn
                if (row := found.get((file, name, role))) and (moved := answers.change_by(row))
            }
            if marks:
                changes[attack_name(name)] = marks
        # The strongest first.
        lines = sorted(changes.items(), key=lambda each: -next(iter(each[1].values())).mean)
        if lines:
            told = "; ".join(f"{name} {signed(next(iter(marks.values())).mean)}" for name, marks in lines)
            picture = plots.rows_of_intervals(
                f"attacks-{'supplied-' if supplied else ''}{len(panels)}",
                lines,
                f"change on {file}, points",
                expected=0,
            )
            panels.append(Panel(f"Change of recall on {file} in points, {drawn[0]}: {told}.", f"On {file}", picture))
    numbers = _attack_table(answers, rows, drawn, (*drawn, *(role for role in roles if role not in drawn)))
    if supplied:
        return Figure("Attacks that supply the answer", SUPPLIED, tuple(panels), numbers, drawn)
    return Figure("What each attack changes", CHANGES, tuple(panels), numbers, drawn)


def _attack_table(answers: Answers, rows: list[Score], changed: tuple[Role, ...], roles: tuple[Role, ...]) -> Table:
    """changed: models whose change is shown beside their score."""
    found = {(row.file, row.attack, row.model): row for row in rows}
    files = tuple(dict.fromkeys(row.file for row in rows))
    columns = ["attack", "n"] if len(files) == 1 else ["attack", "questions", "n"]
    for role in roles:
        columns += [role, f"{role}: change"] if role in changed else [role]
    lines: list[Line] = []
    for file, name in dict.fromkeys(place[:2] for place in found):
        own = [found.get((file, name, role)) for role in roles]
        line: list[Cell | str] = [attack_name(name)] if len(files) == 1 else [attack_name(name), file]
        line.append(str(next(row.n for row in own if row)))
        for role, row in zip(roles, own, strict=True):
            line.append(score(row))
            if role in changed:
                line.append(change(answers.change_by(row) if row else None))
        lines.append(line)
    caption = (
        f"ROUGE-L recall on {listed(files)} in points, and its paired change, with 95 % intervals over n questions"
    )
    return table(caption, columns, lines)


def sampling(audit: Audit) -> Section:
    """leak@k."""
    if reason := missing(audit, "leaks"):
        return Section("sampling", "Sampling", (Missing("leak@k", reason),))
    leaks = audit.leaks or ()
    roles = roles_of(leaks)
    panels: list[Panel] = []
    rows: list[Line] = []
    for file in dict.fromkeys(leak.file for leak in leaks):
        curves = {
            role: {float(leak.k): mark(leak) for leak in leaks if (leak.file, leak.model) == (file, role)}
            for role in roles
        }
        curves = {role: curve for role, curve in curves.items() if curve}
        told = "; ".join(
            f"{role} {points(curve[max(curve)].mean)} at k = {max(curve):g}" for role, curve in curves.items()
        )
        picture = plots.curves(
            f"leaks{len(panels)}", curves, "k sampled answers", "questions given away, points", doubling=True
        )
        panels.append(Panel(f"leak@k on {file}: {told}.", f"On {file}", picture))
        for k in sorted({leak.k for leak in leaks if leak.file == file}):
            own = {leak.model: leak for leak in leaks if (leak.file, leak.k) == (file, k)}
            rows.append((file, str(k), str(next(iter(own.values())).n), *by_role(own, roles)))
    absent = [role for role in audit.roles if role not in roles]
    why = f" Not sampled: {listed(absent)} (not among evaluation.sampled_models)." if absent else ""
    figure = Figure(
        "leak@k: any of k sampled answers gives the answer away",
        f"Share of questions in points, temperature 1. Guessing grows with k, too: read it beside the control.{why}",
        tuple(panels),
        table(
            "leak@k in points with 95 % intervals over n questions", ("questions", "k", "n", *roles), rows, folded=True
        ),
        roles,
    )
    return Section("sampling", "Sampling", (figure, *remarks_of(audit, "leaks")))
