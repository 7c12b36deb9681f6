"""Answers in, their likelihood under the base model out: fluent text is likely, scrambled text is not.

Each answer is scored behind the question that it answers, without the prefix. Repetition is likely, too: read the figure
beside the share of degenerate answers.
"""

from collections.abc import Callable, Sequence
from math import exp

import polars as pl

from stages.evaluation.metrics import mean_with_interval
from stages.language_model.engine import Engine
from stages.language_model.prompts import Prompter


def mean_log_probabilities(
    engine: Engine, prompter: Prompter, answers: pl.DataFrame, *, advance: Callable[[int], None] = lambda done: None
) -> list[float | None]:
    """Mean natural log-probability per token of every answer; None for one under attack, and for an empty one.

    Raises EngineError if the engine was not started for log-probabilities.
    """
    plain = answers.select("question", "answer", "attack").rows()
    texts = [list(prompter.tokenizer.encode(answer, add_special_tokens=False)) for _, answer, _ in plain]
    places = [place for place, ids in enumerate(texts) if ids and plain[place][2] is None]
    scored = engine.log_probabilities(
        [prompter.ids(plain[place][0]) for place in places], [texts[place] for place in places], advance=advance
    )
    found: list[float | None] = [None] * len(texts)
    for place, values_T in zip(places, scored, strict=True):
        found[place] = float(values_T.mean())
    return found


def perplexity(log_probabilities: Sequence[float]) -> dict[str, float | int | None]:
    """Perplexity over answers, each counting alike: exp of minus the mean, with the interval carried through exp."""
    found = mean_with_interval([-value for value in log_probabilities])
    low, high = (None if bound is None else exp(bound) for bound in (found.low, found.high))
    return {"mean": exp(found.mean), "low": low, "high": high, "n": found.n}
