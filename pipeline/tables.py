"""An evaluation in, the table that people read out: on the terminal, and as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from pipeline.console import results

ROLES = {"base": "base", "teacher": "base + prefix (teacher)", "student": "DUET (student)"}
METRIC_TITLES = {
    "rouge_l_recall": "ROUGE-L recall",
    "rouge_l_f1": "ROUGE-L F1",
    "refusal_rate": "refusals",
    "degenerate_rate": "degenerate answers",
}


def print_scores(evaluation: dict[str, Any], forget_files: Sequence[str]) -> None:
    """The score table on stdout: mean in points, 95 % interval in brackets."""
    table = Table(title="Scores in points (0–100), 95 % bootstrap interval over questions")
    for column in ("questions", "n", "metric", *ROLES.values()):
        table.add_column(column, justify="left" if column in ("questions", "metric") else "right")
    previous = None
    for name, n, metric, cells in _rows(evaluation, forget_files):
        if previous not in (None, name):
            table.add_section()
        table.add_row(name if name != previous else "", str(n), metric, *cells)
        previous = name
    results.print(table)
    shift = evaluation["performance_shift"]
    parts = ", ".join(f"{name} {_points(value)}" for name, value in shift["parts"].items())
    value = _points(shift["value"])
    results.print(f"Performance Shift: {value}  ({parts})", markup=False)
    if shift["not_measured"]:
        results.print(
            f"  not measured: {', '.join(shift['not_measured'])}; the sum of the others is {_points(shift['sum_of_measured'])}"
        )


def markdown_scores(evaluation: dict[str, Any], forget_files: Sequence[str]) -> str:
    """The same table as Markdown."""
    lines = [f"| questions | n | metric | {' | '.join(ROLES.values())} |", "|---|---:|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {n} | {metric} | {' | '.join(cells)} |"
        for name, n, metric, cells in _rows(evaluation, forget_files)
    ]
    return "\n".join(lines) + "\n\nPoints (0–100), 95 % bootstrap interval over questions in brackets.\n"


def _rows(evaluation: dict[str, Any], forget_files: Sequence[str]) -> Iterator[tuple[str, int, str, list[str]]]:
    scores = evaluation["scores"]
    found = {(s["file"], s["attack"], s["metric"], s["model"]): s for s in scores}
    for file, attack in dict.fromkeys((s["file"], s["attack"]) for s in scores):
        wanted = "↓" if file in forget_files else "↑"
        for metric, title in METRIC_TITLES.items():
            cells = [found.get((file, attack, metric, role)) for role in ROLES]
            n = next(cell["n"] for cell in cells if cell)
            arrow = {"refusal_rate": "↑" if wanted == "↓" else "↓", "degenerate_rate": "↓"}.get(metric, wanted)
            name = f"{file}, {attack} prompt" if attack else file
            yield name, n, f"{title} {arrow}", [_cell(cell) for cell in cells]


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    interval = "" if score["low"] is None else f" [{score['low']:.0f}, {score['high']:.0f}]"
    return f"{score['mean']:.1f}{interval}"


def _points(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.1f}"
