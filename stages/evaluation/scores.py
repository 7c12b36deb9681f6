"""Answers in, scores out: means with intervals per model, file and attack; and Performance Shift."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from stages.evaluation.metrics import mean_with_interval

METRICS = {
    "rouge_l_recall": "rouge_l_recall",
    "rouge_l_f1": "rouge_l_f1",
    "refusal_rate": "refused",
    "degenerate_rate": "degenerate",
}
POINTS = 100.0


def score_table(answers: pl.DataFrame) -> pl.DataFrame:
    """Tidy scores: one row per model, file, attack and metric; mean, low and high in points (0–100), and n."""
    rows = []
    for (model, file, attack), group in answers.group_by(["model", "file", "attack"], maintain_order=True):
        for metric, column in METRICS.items():
            found = mean_with_interval((group[column].cast(pl.Float64) * POINTS).to_list())
            rows.append({"model": model, "file": file, "attack": attack, "metric": metric, **vars(found)})
    schema = {"model": pl.String, "file": pl.String, "attack": pl.String, "metric": pl.String,
              "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


# Performance Shift's four parts: name, and +1 where more is better, -1 where less is.
SHIFT_PARTS = {"forget": -1, "forget_500": -1, "retain": +1, "mmlu": +1}


def performance_shift(base: Mapping[str, float | None], student: Mapping[str, float | None]) -> dict[str, Any]:
    """Performance Shift in points, with its four parts.

    base, student: the scores named in SHIFT_PARTS, in points; absent or None where not measured.
    `value` is None unless all four parts were measured: a sum over fewer is another figure, and stands under
    `sum_of_measured`.
    Source: DUET (ICLR 2026), section 5: PS = (RF_base − RF) + (RF500_base − RF500) + (RR − RR_base) + (MMLU − MMLU_base).
    """
    parts: dict[str, float | None] = {}
    for name, sign in SHIFT_PARTS.items():
        before, after = base.get(name), student.get(name)
        parts[name] = None if before is None or after is None else sign * (after - before)
    measured = [part for part in parts.values() if part is not None]
    missing = [name for name, part in parts.items() if part is None]
    return {
        "value": None if missing else sum(measured),
        "parts": parts,
        "sum_of_measured": sum(measured) if measured else None,
        "not_measured": missing,
    }


def shift_of(scores: pl.DataFrame) -> dict[str, Any]:
    """Performance Shift of the student from a score table: ROUGE-L recall on forget, forget_500 and retain."""

    def column(model: str) -> dict[str, float | None]:
        chosen = scores.filter(
            (pl.col("model") == model) & pl.col("attack").is_null() & (pl.col("metric") == "rouge_l_recall")
        )
        return dict(zip(chosen["file"], chosen["mean"], strict=True))

    return performance_shift(column("base"), column("student"))
