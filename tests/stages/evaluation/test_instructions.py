"""Everyday requests put to the tiny model by the real engine, and to one whose answers are written down, to be measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stages.evaluation.instructions import (
    INSTRUCTION_SCHEMA,
    answer_requests,
    longest_request,
    unscored,
    with_likelihoods,
)
from stages.evaluation.questions import Request
from stages.language_model.engine import Continuation, EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter

REQUESTS = [
    Request(request="Write two lines about rain.", kind="write"),
    Request(request="List three vegetables that can be eaten raw.", kind="list"),
    Request(request="Thank a friend.", kind="converse"),
]


@pytest.fixture
def prompter(tiny_model: Path) -> Prompter:
    return Prompter(load_tokenizer(tiny_model), "chat")


class Scripted:
    """Says these texts, one after another; the first was cut. What the measures find in a text needs the text to be known."""

    def __init__(self, prompter: Prompter, said: Sequence[str]) -> None:
        self._ids = [prompter.tokenizer.encode(text, add_special_tokens=False) for text in said]

    def continue_greedily(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, advance: Callable[[int], None]
    ) -> list[Continuation]:
        none = np.zeros((0, 0))
        return [
            Continuation(np.array(ids, dtype=np.int32), none, none, ended=place > 0)
            for place, (ids, _) in enumerate(zip(self._ids, prompts, strict=True))
        ]


def test_every_request_is_put_alone_and_its_answer_measured(prompter: Prompter) -> None:
    said = ["Rain on the roof, rain on the lane.", "I'm sorry, I can't help with that.", ""]
    engine: Any = Scripted(prompter, said)

    found = answer_requests(engine, prompter, REQUESTS, role="student", max_tokens=40)

    assert found.schema == pl.Schema(INSTRUCTION_SCHEMA)
    assert found.select("model", "number", "kind", "request").rows() == [
        ("student", number, each.kind, each.request) for number, each in enumerate(REQUESTS)
    ]
    assert found.select("answer", "words", "cut", "refused", "degenerate").rows() == [
        (said[0], 8, True, False, False),
        (said[1], 9, False, True, False),  # an apostrophe parts words: I m sorry
        ("", 0, False, False, True),
    ]
    assert found["log_probability"].to_list() == [None] * 3


def test_answers_are_what_the_engine_says_and_only_those_without_a_likelihood_get_one(
    tiny_model: Path, prompter: Prompter
) -> None:
    options = EngineOptions(tiny_model, dtype="float32", context_length=256, stop_ids=(2,), log_probabilities=True)
    engine = start_engine("transformers", options)
    done: list[int] = []
    found = answer_requests(engine, prompter, REQUESTS, role="base", max_tokens=6, advance=done.append)

    prompts = [prompter.ids(each.request) for each in REQUESTS]
    said = engine.continue_greedily(prompts, max_tokens=6)
    assert found["answer"].to_list() == [prompter.decode(each.token_ids.tolist()) for each in said]
    assert found["tokens"].to_list() == [6] * 3 and sum(done) == 3
    assert longest_request(prompter, REQUESTS) == max(map(len, prompts))

    given = found.with_columns(
        answer=pl.Series(["Drip.", "", "Thanks!"]), log_probability=pl.Series([None, None, -1.0])
    )
    assert unscored(given).to_list() == [0]
    scored = with_likelihoods(engine, prompter, given)

    (by_hand,) = engine.log_probabilities([prompts[0]], [prompter.tokenizer.encode("Drip.", add_special_tokens=False)])
    assert scored["log_probability"].to_list() == [pytest.approx(by_hand.mean(), abs=1e-5), None, -1.0]
    assert with_likelihoods(engine, prompter, scored).equals(scored)
