"""Answers in, their likelihood under the base model out: fluent text is likely, scrambled text is not.

Each answer is scored behind the question that it answers, without the prefix. Repetition is likely, too: read the figure
beside the share of degenerate answers.
"""

from collections.abc import Callable, Sequence
from math import exp

import polars as pl

from stages.evaluation.interview import spread
from stages.evaluation.metrics import mean_with_interval
from stages.language_model.engine import Engine
from stages.language_model.prompts import Prompter


def unscored(answers: pl.DataFrame, most: int | None) -> pl.Series:
    """Places of the answers that are to be scored and are not yet: without attack, and not empty.

    most: so many of each model's answers to a file, evenly spread; None: all.
    """
    plain = answers.with_row_index("place").filter(pl.col("attack").is_null())
    chosen = [
        group["place"].gather(spread(group.height, most))
        for _, group in plain.group_by("model", "file", maintain_order=True)
    ]
    places = pl.concat([pl.Series("place", [], dtype=pl.UInt32), *chosen])
    open_ = answers[places]["log_probability"].is_null() & (answers[places]["answer"] != "")
    return places.filter(open_)


def mean_log_probabilities(
    engine: Engine, prompter: Prompter, answers: pl.DataFrame, *, advance: Callable[[int], None] = lambda done: None
) -> list[float]:
    """Mean natural log-probability per token of every answer behind its question; neither may be empty.

    Raises EngineError if the engine was not started for log-probabilities.
    """
    texts = [
        prompter.completion_ids(prompter.text(question), prompter.gap + answer)
        for question, answer in answers.select("question", "answer").iter_rows()
    ]
    scored = engine.log_probabilities([prompt for prompt, _ in texts], [said for _, said in texts], advance=advance)
    return [float(values_T.mean()) for values_T in scored]


def perplexity(log_probabilities: Sequence[float]) -> dict[str, float | int | None]:
    """Perplexity over answers, each counting alike: exp of minus the mean, with the interval carried through exp."""
    found = mean_with_interval([-value for value in log_probabilities])
    low, high = (None if bound is None else exp(bound) for bound in (found.low, found.high))
    return {"mean": exp(found.mean), "low": low, "high": high, "n": found.n}
