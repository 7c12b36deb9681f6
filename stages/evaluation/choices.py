"""Multiple choice by likelihood: which option does the model find likeliest? Nothing is generated.

Lines of `{"question", "choices", "answer": index}` in, checked questions out; and one row per answered question in, the share
answered rightly out. Asking and scoring between the two are lm-eval's, see `harness`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

import polars as pl
from pydantic import Field, model_validator

from stages.evaluation.metrics import mean_with_interval
from stages.evaluation.questions import Asked, load_records
from stages.texts import Text

LETTERS = "ABCDEFGHIJ"
POINTS = 100.0
# file: the name under evaluation.choices, or the task's. origin: file or task. measure: acc or acc_norm, as lm-eval names them.
# groups: those of lm-eval's groups whose mean this question enters, the widest first.
CHOICE_SCHEMA: dict[str, Any] = {
    "model": pl.String,
    "file": pl.String,
    "number": pl.Int64,
    "question": pl.String,
    "right": pl.String,
    "chosen": pl.String,
    "correct": pl.Boolean,
    "origin": pl.String,
    "measure": pl.String,
    "groups": pl.List(pl.String),
}
CHOICE_SCORE_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "metric": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "origin": pl.String,
    "measure": pl.String,
}


class ChoiceQuestion(Asked):
    """One question with its options."""

    choices: tuple[Text, ...] = Field(min_length=2, max_length=len(LETTERS), description="Options.")
    answer: int = Field(ge=0, strict=True, description="Index of the right option, from 0.")

    @model_validator(mode="after")
    def _sound(self) -> "ChoiceQuestion":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, and there are {len(self.choices)} choices from 0")
        if len({normalize("NFC", choice) for choice in self.choices}) < len(self.choices):
            raise ValueError("two choices are equal")
        return self


def load_choices(path: Path) -> list[ChoiceQuestion]:
    """All questions of a file. Raises DataError as `load_questions` does."""
    example = '{"question": "…", "choices": ["…", "…"], "answer": 0}'
    return load_records(path, ChoiceQuestion, example, "evaluation.choices.general_knowledge=…")


def choice_scores(chosen: pl.DataFrame) -> pl.DataFrame:
    """Tidy: per model and file the share answered rightly, in points, with its interval and n.

    chosen: columns `CHOICE_SCHEMA`. A group stands before its members, as a mean over all of their questions.
    """
    # A question counts for its groups and for its own file.
    counted = chosen.with_columns(pl.concat_list("groups", "file").alias("file")).explode("file")
    rows: list[Mapping[str, Any]] = [
        {
            "model": model,
            "file": file,
            "metric": "accuracy",
            "origin": group["origin"][0],
            "measure": group["measure"][0],
            **vars(mean_with_interval((group["correct"].cast(pl.Float64) * POINTS).to_list())),
        }
        for (model, file), group in counted.group_by(["model", "file"], maintain_order=True)
    ]
    return pl.DataFrame(rows, schema=CHOICE_SCORE_SCHEMA)
