"""leak@k against counting by hand, and sampled answers of the tiny model."""

from itertools import combinations
from pathlib import Path

import polars as pl
import pytest

from stages.evaluation.questions import Question
from stages.evaluation.sampling import SAMPLE_SCHEMA, leak_at, leak_curve, powers_of_two, sample_answers
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter


@pytest.mark.parametrize(("samples", "leaks"), [(4, 0), (4, 1), (5, 2), (6, 6)])
def test_leak_at_k_is_the_share_of_choices_of_k_that_hold_a_leak(samples: int, leaks: int) -> None:
    for k in range(1, samples + 1):
        chosen = list(combinations([place < leaks for place in range(samples)], k))
        assert leak_at(k, samples, leaks) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_the_curve_doubles_k_and_ends_at_what_was_drawn() -> None:
    assert powers_of_two(32) == [1, 2, 4, 8, 16, 32]
    assert powers_of_two(6) == [1, 2, 4, 6]
    rows = [
        {"model": "student", "file": "forget", "number": number, "samples": 2, "leaks": leaks, "answers": ["", ""]}
        for number, leaks in enumerate((0, 1, 2, 0))
    ]

    curve = leak_curve(pl.DataFrame(rows, schema=SAMPLE_SCHEMA))

    # k = 1: (0 + ½ + 1 + 0) / 4; k = 2: two of four questions.
    assert curve.select("k", "mean", "n").rows() == [(1, 37.5, 4), (2, 50.0, 4)]


def test_every_question_is_sampled_and_every_answer_kept_and_the_seed_decides(tiny_model: Path) -> None:
    engine = start_engine(
        "transformers", EngineOptions(model=tiny_model, dtype="float32", context_length=256, stop_ids=(2,))
    )
    prompter = Prompter(load_tokenizer(tiny_model), "chat")
    questions = {4: Question(question="Capital of Mali?", answer="Bamako"), 7: Question(question="2 + 2?", answer="4")}
    files = {"forget": questions}

    def drawn(seed: int) -> pl.DataFrame:
        return sample_answers(engine, prompter, files, role="student", prefix=None, samples=3, seed=seed, max_tokens=4)

    first = drawn(0)
    assert first.select("file", "number", "samples").rows() == [("forget", 4, 3), ("forget", 7, 3)]
    assert [len(set(answers)) for answers in first["answers"]] == [3, 3]
    assert drawn(0).equals(first)
    assert not drawn(1).equals(first)
