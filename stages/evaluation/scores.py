"""Answers in, scores out: means with intervals per model, file and attack, what each attack changes; Performance Shift."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from stages.evaluation.fluency import perplexity
from stages.evaluation.metrics import mean_with_interval

METRICS = {
    "rouge_l_recall": "rouge_l_recall",
    "rouge_l_f1": "rouge_l_f1",
    "exact_match": "exact",
    "answer_in_full": "in_full",
    "leak_rate": "leaked",
    "right_rate": "right",
    "refusal_rate": "refused",
    "degenerate_rate": "degenerate",
}
POINTS = 100.0
# The one attack that asks nothing of its own: a question file whose lines are another's in other words.
PARAPHRASE = "paraphrase"

SCORE_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "attack": pl.String,
    "supplies_answer": pl.Boolean,
    "metric": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "delta": pl.Float64,
    "delta_low": pl.Float64,
    "delta_high": pl.Float64,
}


def with_paraphrases(answers: pl.DataFrame, paraphrases: Mapping[str, str]) -> pl.DataFrame:
    """The answers, and those to a file of paraphrases once more: as the attack paraphrase on the file that it asks again.

    paraphrases: by file the one that it asks again, line by line, in other words.
    """
    again = [
        answers.filter((pl.col("file") == file) & pl.col("attack").is_null()).with_columns(
            file=pl.lit(original), attack=pl.lit(PARAPHRASE), log_probability=pl.lit(None, pl.Float64)
        )
        for file, original in paraphrases.items()
    ]
    return pl.concat([answers, *again])


def score_table(answers: pl.DataFrame) -> pl.DataFrame:
    """Tidy scores: one row per model, file, attack and metric; mean, low and high in points (0–100), and n.

    A metric that an answer of the group lacks is left out. The metric perplexity, where answers have a log_probability,
    is no share and not in points.

    delta, delta_low, delta_high: what the attack adds to the same questions of the same model without it, paired per
    question, with its own interval; null where there was no attack.
    """
    rows = []
    groups = answers.group_by(["model", "file", "attack"], maintain_order=True)
    plain = {(key[0], key[1]): group for key, group in groups if key[2] is None}
    for (model, file, attack), group in groups:
        before = group["number"].to_frame().join(plain[model, file], on="number", how="left", maintain_order="left")
        for metric, column in METRICS.items():
            if group[column].null_count():  # answers taken over from an evaluation that did not measure it
                continue
            points = group[column].cast(pl.Float64) * POINTS
            found = mean_with_interval(points.to_list())
            row = {"model": model, "file": file, "attack": attack, "metric": metric, **vars(found)}
            row["supplies_answer"] = bool(group["supplies_answer"][0])
            if attack is not None:
                added = mean_with_interval((points - before[column].cast(pl.Float64) * POINTS).to_list())
                row |= {"delta": added.mean, "delta_low": added.low, "delta_high": added.high}
            rows.append(row)
        if "log_probability" in group.columns and group["log_probability"].count():
            fluency = perplexity(group["log_probability"].drop_nulls().to_list())
            own = {"model": model, "file": file, "attack": attack, "supplies_answer": False}
            rows.append({**own, "metric": "perplexity", **fluency})
    return pl.DataFrame(rows, schema=SCORE_SCHEMA)


def scores_frame(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A score table read back from an evaluation's `scores`; columns that an older one lacks are null."""
    return pl.DataFrame([{name: record.get(name) for name in SCORE_SCHEMA} for record in records], schema=SCORE_SCHEMA)


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


NOT_MEASURED = {
    "forget": "no question file named forget",
    "forget_500": "no question file named forget_500",
    "retain": "no question file named retain",
    "mmlu": "no multiple-choice task or file named mmlu was scored",
}


def shift_of(scores: pl.DataFrame, choices: pl.DataFrame | None = None) -> dict[str, Any]:
    """Performance Shift of the student from a score table: ROUGE-L recall on forget, forget_500 and retain.

    choices: accuracies (`choice_scores`); only a task or file named mmlu is the part mmlu. Any other file of one's own is
    shown under `stand_ins`, outside the sum; other tasks measure something else.
    `reasons` says why each missing part is missing.
    """

    def column(model: str) -> dict[str, float | None]:
        chosen = scores.filter(
            (pl.col("model") == model) & pl.col("attack").is_null() & (pl.col("metric") == "rouge_l_recall")
        )
        return dict(zip(chosen["file"], chosen["mean"], strict=True))

    def accuracy(model: str) -> dict[str, float]:
        chosen = None if choices is None else choices.filter(pl.col("model") == model)
        return {} if chosen is None else dict(zip(chosen["file"], chosen["mean"], strict=True))

    before, after = accuracy("base"), accuracy("student")
    shift = performance_shift(
        {**column("base"), "mmlu": before.get("mmlu")}, {**column("student"), "mmlu": after.get("mmlu")}
    )
    own = set() if choices is None else set(choices.filter(pl.col("origin") == "file")["file"])
    others = [file for file in after if file in own - {"mmlu"} and file in before]
    return {
        **shift,
        "reasons": {part: NOT_MEASURED[part] for part in shift["not_measured"]},
        "stand_ins": {file: {"stands_for": "mmlu", "part": after[file] - before[file]} for file in others},
    }
