"""Multiple choice on the tiny model against whole passes by hand; and files that are refused."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM

from stages.errors import DataError
from stages.evaluation.choices import LETTERS, ChoiceQuestion, choice_scores, choose, load_choices, longest_choice
from stages.evaluation.questions import ChoiceForm
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter

QUESTIONS = [
    ChoiceQuestion(question="Which is a fruit?", choices=("an apple", "a rock", "iron"), answer=0),
    ChoiceQuestion(question="What is two plus two?", choices=("five", "four", "a great many"), answer=1),
    ChoiceQuestion(question="What is the sky?", choices=("green", "blue", "a cake of flour"), answer=1),
]


@pytest.mark.parametrize(("form", "shots"), [("text", 0), ("text", 1), ("letters", 0), ("letters", 1)])
def test_the_likeliest_option_is_chosen_behind_the_solved_examples(
    tiny_model: Path, form: ChoiceForm, shots: int
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    options = EngineOptions(
        model=tiny_model, dtype="float32", context_length=512, stop_ids=(2,), log_probabilities=True
    )

    found = choose(
        start_engine("transformers", options),
        Prompter(tokenizer, "chat"),
        {"general": QUESTIONS},
        role="student",
        prefix=None,
        shots=shots,
        form=form,
    )

    def shown(question: ChoiceQuestion) -> str:
        if form == "text":
            return f"Question: {question.question}\nAnswer:"
        listed = "\n".join(f"{letter}. {each}" for letter, each in zip("ABC", question.choices, strict=True))
        return f"Question: {question.question}\n{listed}\nAnswer:"

    network = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    solved = {"text": " an apple", "letters": " A"}[form]
    before = f"{shown(QUESTIONS[0])}{solved}\n\n" if shots else ""
    expected = []
    for question in QUESTIONS[shots:]:
        prompt = tokenizer.encode(before + shown(question))
        values = []
        for option in question.choices if form == "text" else "ABC":
            ids = tokenizer.encode(f" {option}", add_special_tokens=False)
            with torch.inference_mode():
                shares_LV = network(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(dim=-1)
            total = sum(shares_LV[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids))
            values.append(total / len(option))
        expected.append(question.choices[values.index(max(values))])
    assert found["chosen"].to_list() == expected
    assert found["number"].to_list() == list(range(shots, 3))
    right = [question.choices[question.answer] for question in QUESTIONS[shots:]]
    assert found["correct"].to_list() == [one == other for one, other in zip(expected, right, strict=True)]
    (score,) = choice_scores(found).to_dicts()
    assert score["mean"] == pytest.approx(100 * sum(found["correct"]) / (3 - shots))
    assert (score["metric"], score["n"]) == ("accuracy", 3 - shots)


def test_examples_make_the_longest_prompt_longer(tiny_model: Path) -> None:
    prompter = Prompter(load_tokenizer(tiny_model), "chat")
    lengths = [longest_choice(prompter, {"general": QUESTIONS}, None, shots, "text") for shots in (0, 1, 2)]

    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "?", "choices": ["a"], "answer": 0}', ":1 is malformed at choices"),
        ('{"question": "?", "choices": ["a", "b"], "answer": 2}', "answer is 2, and there are 2 choices"),
        ('{"question": "?", "choices": ["a", "a"], "answer": 0}', "two choices are equal"),
        ('{"question": "?", "choices": ["a", "b"], "answer": "a"}', ":1 is malformed at answer"),
        ("", "holds no question"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "choices.jsonl"
    path.write_text(line)

    with pytest.raises(DataError, match=message):
        load_choices(path)


def test_the_stand_in_asks_a_hundred_questions_of_four_options_each() -> None:
    found = load_choices(ROOT / "data/general_knowledge/choices.jsonl")

    assert len(found) >= 100
    assert {len(question.choices) for question in found} == {4}
    # No place of the right option is so common that always naming it would score.
    assert max([question.answer for question in found].count(place) for place in range(4)) < 0.35 * len(found)
    assert len(LETTERS) >= 4
