"""Everyday requests in, what one model answers out: does it still do what it is asked, or decline where it need not?

A request has no reference answer, so no answer is right or wrong here. Looked at is whether the model declines, says nothing
or repeats itself, how much it says, and how likely that is under the base. It compares nothing: that is the verdict's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from stages.evaluation.fluency import mean_log_probabilities
from stages.evaluation.interview import ModelRole
from stages.evaluation.measures.phrases import hear
from stages.evaluation.measures.refusing import load_refusals
from stages.evaluation.measures.repetition import is_degenerate
from stages.evaluation.questions import Request
from stages.language_model.engine import Engine
from stages.language_model.prompts import Prompter

INSTRUCTION_SCHEMA = {
    "model": pl.String,
    "number": pl.Int64,
    "kind": pl.String,
    "request": pl.String,
    "answer": pl.String,
    "tokens": pl.Int64,
    "words": pl.Int64,
    "cut": pl.Boolean,
    "refused": pl.Boolean,
    "degenerate": pl.Boolean,
    "log_probability": pl.Float64,
}


def answer_requests(
    engine: Engine,
    prompter: Prompter,
    requests: Sequence[Request],
    *,
    role: ModelRole,
    max_tokens: int,
    refusals: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Greedy answers of one model to every request, each put to it alone.

    refusals: as in `interview`. Returns one row per request, columns `INSTRUCTION_SCHEMA`; number: its place in the file,
    from 0. words: those of the answer, behind any thinking. log_probability is null until `with_likelihoods` has scored it.
    """
    sentences = load_refusals(refusals)
    prompts = [_prompt(prompter, request) for request in requests]
    said = engine.continue_greedily(prompts, max_tokens=max_tokens, advance=advance)
    records = []
    for number, (request, prompt, continuation) in enumerate(zip(requests, prompts, said, strict=True)):
        _, answer = prompter.split(continuation.token_ids.tolist(), prompt_ids=prompt)
        heard = hear(answer)
        records.append(
            {
                "model": role,
                "number": number,
                "kind": request.kind,
                "request": request.request,
                "answer": answer,
                "tokens": len(continuation.token_ids),
                "words": len(heard.said),
                "cut": not continuation.ended,
                "refused": sentences.stand_in(heard),
                "degenerate": is_degenerate(heard.said),
            }
        )
    return pl.DataFrame(records, schema=INSTRUCTION_SCHEMA)


def with_likelihoods(
    engine: Engine, prompter: Prompter, answers: pl.DataFrame, *, advance: Callable[[int], None] = lambda done: None
) -> pl.DataFrame:
    """The answers with their mean log-probability per token under this engine's model, the base.

    Those that have one keep it; an empty answer has none. Raises EngineError as `mean_log_probabilities` does.
    """
    places = unscored(answers)
    asked = answers[places].rename({"request": "question"})
    values = mean_log_probabilities(engine, prompter, asked, advance=advance) if len(places) else []
    return answers.with_columns(answers["log_probability"].scatter(places, values))


def unscored(answers: pl.DataFrame) -> pl.Series:
    """Places of the answers that are not empty and have no likelihood yet."""
    return (answers["log_probability"].is_null() & (answers["answer"] != "")).arg_true()


def longest_request(prompter: Prompter, requests: Sequence[Request]) -> int:
    """Tokens of the longest prompt that `answer_requests` will send."""
    return max(len(_prompt(prompter, request)) for request in requests)


def _prompt(prompter: Prompter, request: Request) -> list[int]:
    return prompter.ids(request.request, may_think=True)
