"""Likelihood of answers under the tiny model, against a whole pass by hand; perplexity worked out by hand."""

from math import exp, log
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.evaluation.first_tokens import first_tokens
from stages.evaluation.fluency import mean_log_probabilities, perplexity, unscored
from stages.evaluation.questions import Question
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter


def options(model: Path) -> EngineOptions:
    return EngineOptions(model=model, dtype="float32", context_length=256, stop_ids=(2,), log_probabilities=True)


def test_an_answer_is_scored_behind_its_question(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompter = Prompter(tokenizer, "chat")
    rows = [("Why?", "Because it is."), ("Who?", "A")]
    answers = pl.DataFrame(rows, schema={"question": pl.String, "answer": pl.String}, orient="row")

    found = mean_log_probabilities(start_engine("transformers", options(tiny_model)), prompter, answers)

    network = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    for (question, answer), value in zip(rows, found, strict=True):
        prompt, ids = prompter.ids(question), tokenizer.encode(answer, add_special_tokens=False)
        with torch.inference_mode():
            shares_LV = network(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(dim=-1)
        values = [shares_LV[len(prompt) - 1 + t, token].item() for t, token in enumerate(ids)]
        assert value == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_scored_are_some_answers_of_every_model_and_file_that_have_text_no_attack_and_no_score_yet() -> None:
    plain = [
        {"model": model, "file": file, "attack": None, "answer": f"{number}", "log_probability": None}
        for model in ("student", "base")
        for file in ("forget", "retain")
        for number in range(4)
    ]
    plain[0]["answer"], plain[6]["log_probability"] = "", -1.0
    rows = [*plain, {"model": "base", "file": "forget", "attack": "reverse", "answer": "x", "log_probability": None}]
    schema = {"attack": pl.String, "log_probability": pl.Float64}
    answers = pl.DataFrame(rows, schema_overrides=schema)

    assert unscored(answers, None).to_list() == [1, 2, 3, 4, 5, 7, *range(8, 16)]
    assert unscored(answers, 2).to_list() == [2, 4, 8, 10, 12, 14]
    assert unscored(answers[:0], 2).to_list() == []


def test_perplexity_is_the_geometric_mean_over_answers() -> None:
    found = perplexity([-log(2), -log(8)])

    assert found["mean"] == pytest.approx(4)
    assert found["low"] == pytest.approx(2) and found["high"] == pytest.approx(8)
    assert found["n"] == 2
    assert perplexity([-log(3)]) == {"mean": pytest.approx(3), "low": None, "high": None, "n": 1}


def test_first_tokens_are_ten_with_falling_probabilities_of_the_real_distribution(tiny_model: Path) -> None:
    prompter = Prompter(load_tokenizer(tiny_model), "chat")
    files = {"forget": [Question(question="Why?", answer="Lima"), Question(question="Who?", answer="Oslo")]}

    (found,) = first_tokens(
        start_engine("transformers", options(tiny_model)), prompter, files, role="base", prefix=None, questions=1
    )

    network = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    with torch.inference_mode():
        values_V = network(torch.tensor([prompter.ids("Why?")])).logits[0, -1].log_softmax(dim=-1)
    expected = [exp(value) for value in values_V.topk(10).values.tolist()]
    assert [each["probability"] for each in found["tokens"]] == pytest.approx(expected, abs=1e-5)
    assert (found["model"], found["file"], found["question"], found["reference"]) == ("base", "forget", "Why?", "Lima")
