"""Scores and AUCs worked out by hand, swapped answers, and the tiny model scored by whole passes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM

from stages.errors import DataError
from stages.evaluation.membership import (
    MEMBERSHIP_SCHEMA,
    SWAPPED,
    auc_points,
    least_likely,
    longest_membership,
    membership,
    membership_items,
    membership_scores,
    swapped_answers,
)
from stages.evaluation.questions import Question, load_questions
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter
from stages.texts import words

QUESTIONS = [
    Question(question="What is the capital of Mali?", answer="Bamako", answer_start="The capital of Mali is"),
    Question(question="What is the capital of Cuba?", answer="Havana", aliases=("La Habana",)),
    Question(question="What is the capital of Peru?", answer="Lima"),
]
STRANGE = [
    Question(question="What is the capital of Zubrowka?", answer="Lutz"),
    Question(question="What is the capital of Latveria?", answer="Doomstadt"),
]


def frame(members: list[float], others: list[float], compared_with: str = SWAPPED) -> pl.DataFrame:
    sides = [(True, *each) for each in enumerate(members)] + [(False, *each) for each in enumerate(others)]
    fixed = {"model": "base", "file": "forget", "compared_with": compared_with}
    rows = [{**fixed, "member": side, "number": at, "loss": value, "min_k": -value} for side, at, value in sides]
    return pl.DataFrame(rows)


def test_an_auc_is_the_share_of_pairs_that_the_true_answer_wins() -> None:
    # Against −4, −2 and −1.5, −1 wins all three, −2 wins one and ties with one, −5 wins none: 4.5 pairs of nine.
    loss, min_k = membership_scores(frame([-1, -2, -5], [-4, -2, -1.5])).to_dicts()

    assert (loss["score"], min_k["score"]) == ("loss", "min_k")
    assert loss["auc"] == pytest.approx(50)
    assert membership_scores(frame([-1, -2], [-4, -2, -1.5], "other facts"))["auc"].to_list() == pytest.approx([75, 25])
    assert loss["low"] < loss["auc"] < loss["high"]
    assert (loss["n"], loss["n_others"], loss["expected"], loss["compared_with"]) == (3, 3, 50.0, SWAPPED)


def test_what_is_told_apart_without_fail_has_an_interval_of_one_point() -> None:
    (apart, reverse) = membership_scores(frame([-1, -2], [-3, -4, -5], "other facts")).to_dicts()

    assert (apart["low"], apart["auc"], apart["high"]) == (100, 100, 100)
    assert (reverse["low"], reverse["auc"], reverse["high"]) == (0, 0, 0)
    (one, _) = membership_scores(frame([-1], [-3, -4], "other facts")).to_dicts()
    assert (one["auc"], one["low"], one["high"], one["n"], one["n_others"]) == (100, None, None, 1, 2)


def test_swapped_questions_are_resampled_together_and_other_facts_apart() -> None:
    # Every question's true answer is a little likelier than its other one, and questions differ widely.
    true = list(np.linspace(-9, -1, 30))
    other = [value - 0.01 for value in true]

    widths = [
        row["high"] - row["low"]
        for compared_with in (SWAPPED, "other facts")
        for row in membership_scores(frame(true, other, compared_with)).to_dicts()
    ]

    assert max(widths[:2]) < 10 < min(widths[2:])


def test_an_auc_along_an_axis_is_that_of_each_row() -> None:
    rng = np.random.default_rng(0)
    true, other = rng.normal(1, 1, (4, 7)), rng.integers(-1, 2, (4, 5)).astype(float)

    by_hand = [
        100 * np.mean([(a > b) + (a == b) / 2 for a in one for b in rest])
        for one, rest in zip(true, other, strict=True)
    ]
    assert auc_points(true, other).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize(("tokens", "taken"), [(1, 1), (4, 1), (5, 1), (9, 1), (10, 2), (15, 3)])
def test_min_k_is_the_mean_of_the_least_likely_fifth(tokens: int, taken: int) -> None:
    values = -np.arange(1, tokens + 1, dtype=np.float32)

    assert least_likely(values[::-1]) == pytest.approx(-np.mean(range(tokens - taken + 1, tokens + 1)))


def test_swapped_answers_are_the_same_answers_and_never_an_accepted_one() -> None:
    questions = load_questions(ROOT / "data/capitals/eval/forget.jsonl")

    found = swapped_answers("forget", questions)

    assert sorted(found) == sorted(each.answer for each in questions)
    for question, answer in zip(questions, found, strict=True):
        assert words(answer) not in [words(reference) for reference in question.references]
    assert found == swapped_answers("forget", questions)
    # Another file has another order: the seed is in the content.
    assert found[1:] != swapped_answers("forget", questions[1:])


def test_an_answer_that_holds_an_alias_is_no_wrong_answer() -> None:
    questions = [
        Question(question="City?", answer="New York City", aliases=("NYC",)),
        Question(question="State?", answer="New York"),
        Question(question="Isle?", answer="Cuba"),
        Question(question="Abbreviated?", answer="NYC"),
    ]

    found = swapped_answers("places", questions)

    # Only "Cuba" is wrong for the city, and so only "NYC" is left for the state.
    assert found[:2] == ["Cuba", "NYC"]


def test_answers_that_are_half_the_same_cannot_be_swapped() -> None:
    questions = [Question(question=f"{number}?", answer=answer) for number, answer in enumerate(["yes", "yes", "no"])]

    with pytest.raises(DataError, match="too much alike to be swapped: no wrong one is left for 1 of"):
        swapped_answers("forget", questions)


def test_other_facts_are_scored_behind_their_own_questions() -> None:
    items = membership_items({"forget": QUESTIONS, "more": QUESTIONS[:2]}, {"forget": STRANGE})

    sides = [(item.file, item.member, item.question.question, item.answer) for item in items]
    assert sides[3:5] == [("forget", False, each.question, each.answer) for each in STRANGE]
    assert sides[5:] == [
        ("more", True, QUESTIONS[0].question, "Bamako"),
        ("more", True, QUESTIONS[1].question, "Havana"),
        ("more", False, QUESTIONS[0].question, "Havana"),
        ("more", False, QUESTIONS[1].question, "Bamako"),
    ]
    assert [item.compared_with == SWAPPED for item in items] == 5 * [False] + 4 * [True]


def test_scores_are_those_of_a_plain_pass_over_question_and_answer(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompter = Prompter(tokenizer, "chat")
    files, others = {"forget": QUESTIONS}, {"forget": STRANGE}
    options = EngineOptions(
        model=tiny_model,
        dtype="float32",
        context_length=longest_membership(prompter, files, others, None),
        stop_ids=(2,),
        log_probabilities=True,
    )
    told: list[int] = []

    found = membership(
        start_engine("transformers", options), prompter, files, others, role="control", prefix=None, advance=told.append
    )

    assert found.schema == MEMBERSHIP_SCHEMA
    assert found["member"].to_list() == [True, True, True, False, False] and sum(told) == 5
    network = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    for row, question in zip(found.to_dicts(), [*QUESTIONS, *STRANGE], strict=True):
        prompt = prompter.ids(question.question, answer_start=question.answer_start)
        answer = f" {question.answer}" if question.answer_start else question.answer
        ids = tokenizer.encode(answer, add_special_tokens=False)
        with torch.inference_mode():
            shares_LV = network(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(dim=-1)
        values = [shares_LV[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids)]
        assert row["tokens"] == len(ids) and len(prompt) + len(ids) < options.context_length
        assert row["loss"] == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert row["min_k"] == pytest.approx(min(values), abs=1e-4)  # of fewer than ten tokens, one
    (score, _) = membership_scores(found).to_dicts()
    assert (score["model"], score["n"], score["n_others"]) == ("control", 3, 2)
