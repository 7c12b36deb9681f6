"""An evaluation in, the table that people read out: on the terminal, and as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from pipeline.console import results

ROLES = {"base": "base", "teacher": "base + prefix (teacher)", "student": "DUET (student)"}
METRIC_TITLES = {
    "rouge_l_recall": "ROUGE-L recall",
    "rouge_l_f1": "ROUGE-L F1",
    "exact_match": "exact match",
    "answer_in_full": "answer in full",
    "refusal_rate": "refusals",
    "degenerate_rate": "degenerate answers",
    "perplexity": "perplexity under the base (not points)",
}
NO_ATTACK = "Δ is the change against the same questions without the attack, paired, with its 95 % interval."
SUPPLIED = "These prompts supply the answer among others: a hit is recognition, and a guess may hit, too."


def print_scores(evaluation: dict[str, Any], forget_files: Sequence[str]) -> None:
    """The score tables on stdout: mean in points, 95 % interval in brackets; attacks with what they change."""
    table = _table("Scores in points (0–100), 95 % bootstrap interval over questions", ("questions", "n", "metric"))
    previous = None
    for name, n, metric, cells in _rows(evaluation, forget_files):
        if previous not in (None, name):
            table.add_section()
        table.add_row(name if name != previous else "", str(n), metric, *cells)
        previous = name
    results.print(table)
    for title, columns, rows in _more_tables(evaluation):
        table = _table(title, columns)
        for row in rows:
            table.add_row(*row)
        results.print(table)
    for name, reason in evaluation.get("not_measured", {}).items():
        results.print(f"Not measured: {name} ({reason})", markup=False)
    shift = evaluation["performance_shift"]
    parts = ", ".join(f"{name} {_points(value)}" for name, value in shift["parts"].items())
    value = _points(shift["value"])
    results.print(f"Performance Shift: {value}  ({parts})", markup=False)
    if shift["not_measured"]:
        results.print(
            f"  not measured: {', '.join(shift['not_measured'])}; the sum of the others is {_points(shift['sum_of_measured'])}"
        )
    for name, stand_in in shift.get("stand_ins", {}).items():
        results.print(
            f"  {name} {_points(stand_in['part'])} stands where {stand_in['stands_for']} would; it is in no sum",
            markup=False,
        )


def markdown_scores(evaluation: dict[str, Any], forget_files: Sequence[str]) -> str:
    """The same tables as Markdown."""
    lines = [f"| questions | n | metric | {' | '.join(ROLES.values())} |", "|---|---:|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {n} | {metric} | {' | '.join(cells)} |"
        for name, n, metric, cells in _rows(evaluation, forget_files)
    ]
    lines += ["", "Points (0–100), 95 % bootstrap interval over questions in brackets."]
    for title, columns, rows in _more_tables(evaluation):
        lines += ["", title, "", f"| {' | '.join((*columns, *ROLES.values()))} |"]
        lines += ["|---|---|---:|---:|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    for name, reason in evaluation.get("not_measured", {}).items():
        lines += ["", f"Not measured: {name} ({reason})."]
    return "\n".join(lines) + "\n"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in (*columns, *ROLES.values()):
        table.add_column(column, justify="left" if column in ("questions", "metric", "attack") else "right")
    return table


def _rows(evaluation: dict[str, Any], forget_files: Sequence[str]) -> Iterator[tuple[str, int, str, list[str]]]:
    """Every metric of every file without attack."""
    scores = [score for score in evaluation["scores"] if not score["attack"]]
    found = {(s["file"], s["metric"], s["model"]): s for s in scores}
    for file in dict.fromkeys(s["file"] for s in scores):
        wanted = "↓" if file in forget_files else "↑"
        for metric, title in METRIC_TITLES.items():
            cells = [found.get((file, metric, role)) for role in ROLES]
            if not any(cells):
                continue
            n = next(cell["n"] for cell in cells if cell)
            arrow = {"refusal_rate": "↑" if wanted == "↓" else "↓", "degenerate_rate": "↓", "perplexity": "↓"}.get(
                metric, wanted
            )
            yield file, n, f"{title} {arrow}", [_cell(cell) for cell in cells]


def _more_tables(evaluation: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str, str], list[list[str]]]]:
    """Title, three leading columns and rows of the tables on attacks, leak@k and multiple choice, where there are any."""
    for title, rows in _attack_tables(evaluation):
        yield title, ("questions", "attack", "n"), rows
    for title, name, column, key in (
        ("leak@k ↓: points of questions with the answer in full in any of k sampled answers", "leaks", "k", "k"),
        ("Multiple choice by likelihood of the options, points answered rightly ↑", "choices", "metric", "metric"),
    ):
        found = {(str(s["file"]), str(s[key]), s["model"]): s for s in evaluation.get(name, ())}
        rows = []
        for file, each in dict.fromkeys(place[:2] for place in found):
            cells = [found.get((file, each, role)) for role in ROLES]
            rows.append([file, each, str(next(cell["n"] for cell in cells if cell)), *map(_cell, cells)])
        if rows:
            yield title, ("questions", column, "n"), rows


def _attack_tables(evaluation: dict[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """Recall under each attack and what the attack changes; those that supply the answer in a table of their own."""
    scores = [s for s in evaluation["scores"] if s["attack"] and s["metric"] == "rouge_l_recall"]
    found = {(s["file"], s["attack"], s["model"]): s for s in scores}
    for supplied, note in ((False, NO_ATTACK), (True, SUPPLIED)):
        rows = []
        for file, attack in dict.fromkeys(
            (s["file"], s["attack"]) for s in scores if bool(s.get("supplies_answer")) is supplied
        ):
            cells = [found.get((file, attack, role)) for role in ROLES]
            n = next(cell["n"] for cell in cells if cell)
            rows.append([file, attack, str(n), *(_cell(cell) + _delta(cell) for cell in cells)])
        if rows:
            yield f"Attacks, ROUGE-L recall in points ↓. {note}", rows


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    interval = "" if score["low"] is None else f" [{score['low']:.0f}, {score['high']:.0f}]"
    return f"{score['mean']:.1f}{interval}"


def _delta(score: dict[str, Any] | None) -> str:
    if score is None or score.get("delta") is None:
        return ""
    interval = "" if score["delta_low"] is None else f" [{score['delta_low']:+.0f}, {score['delta_high']:+.0f}]"
    return f", Δ {score['delta']:+.1f}{interval}"


def _points(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.1f}"
