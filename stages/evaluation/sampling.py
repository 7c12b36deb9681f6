"""leak@k: how often at least one of k sampled answers gives the forgotten answer away.

An engine and questions in; every sampled answer and the curve over k out. A leak is a reference
that stands in the sampled answer in any form (`measures.leaks`).
"""

from collections.abc import Callable, Mapping
from math import comb

import polars as pl

from stages.evaluation.interview import ModelRole
from stages.evaluation.measures.leaks import is_leaked
from stages.evaluation.measures.phrases import hear
from stages.evaluation.metrics import mean_with_interval
from stages.evaluation.questions import Question
from stages.language_model.engine import Engine
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter

SAMPLE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "model": pl.String,
    "file": pl.String,
    "number": pl.Int64,
    "question": pl.String,
    "reference": pl.String,
    "samples": pl.Int64,
    "leaks": pl.Int64,
    "answers": pl.List(pl.String),
}
LEAK_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "k": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}
POINTS = 100.0


def sample_answers(
    engine: Engine,
    prompter: Prompter,
    files: Mapping[str, Mapping[int, Question]],
    *,
    role: ModelRole,
    prefix: Prefix | None,
    samples: int,
    seed: int,
    max_tokens: int,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """`samples` answers at temperature 1 to every question, each drawn with a seed of its own that follows from `seed`.

    files: by name, the questions by their number in the file.
    Returns one row per question, columns `SAMPLE_SCHEMA`.
    """
    asked = [(file, number, each) for file, questions in files.items() for number, each in questions.items()]
    prompts = [
        prompter.ids(question.question, prefix, may_think=True) for _, _, question in asked for _ in range(samples)
    ]
    said = engine.sample(
        prompts,
        seeds=[seed * 1_000_003 + place for place in range(len(prompts))],
        max_tokens=max_tokens,
        advance=advance,
    )
    answers = [prompter.split(ids.tolist(), prompt_ids=prompt)[1] for ids, prompt in zip(said, prompts, strict=True)]
    records = []
    for place, (file, number, question) in enumerate(asked):
        own = answers[place * samples : (place + 1) * samples]
        records.append(
            {
                "model": role,
                "file": file,
                "number": number,
                "question": question.question,
                "reference": question.answer,
                "samples": samples,
                "leaks": sum(is_leaked(hear(answer), question.references) for answer in own),
                "answers": own,
            }
        )
    return pl.DataFrame(records, schema=SAMPLE_SCHEMA)


def leak_curve(sampled: pl.DataFrame) -> pl.DataFrame:
    """leak@k for k = 1, 2, 4, … up to the samples drawn: share of questions in points with its interval."""
    rows = []
    for (model, file), group in sampled.group_by(["model", "file"], maintain_order=True):
        for k in powers_of_two(group["samples"][0]):
            shares = [POINTS * leak_at(k, drawn, leaks) for drawn, leaks in group.select("samples", "leaks").rows()]
            rows.append({"model": model, "file": file, "k": k, **vars(mean_with_interval(shares))})
    return pl.DataFrame(rows, schema=LEAK_SCHEMA)


def leak_at(k: int, samples: int, leaks: int) -> float:
    """Probability that k of the samples, taken without putting back, hold at least one leak.

    Source: the unbiased estimate of pass@k, Chen et al. 2021 (arXiv 2107.03374), eq. 1.
    """
    return 1 - comb(samples - leaks, k) / comb(samples, k)


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    return sorted({*(1 << power for power in range(most.bit_length()) if 1 << power <= most), most})
