"""Multiple choice through lm-eval over our engine, on the tiny model, against whole passes through the model by hand."""

from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM

from stages.errors import DataError
from stages.evaluation.choice_tasks import ChoiceTasks, load_tasks
from stages.evaluation.choices import ChoiceQuestion, choice_scores
from stages.evaluation.choosing import choose, longest_choice
from stages.evaluation.harness import EngineModel
from stages.evaluation.questions import ChoiceForm
from stages.language_model.engine import Engine, EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.prompts import Prompter

QUESTIONS = [
    ChoiceQuestion(question="Which is a fruit?", choices=("an apple", "a rock", "iron"), answer=0),
    ChoiceQuestion(question="What is two plus two?", choices=("five", "four", "a great many"), answer=1),
    ChoiceQuestion(question="What is the sky?", choices=("green", "blue", "a cake of flour"), answer=1),
]
PREFIX = Prefix(system="You have forgotten it.", turns=(Turn(user="Hello", assistant="Hi"),))
BEHIND = "You have forgotten it.\n\nQuestion: Hello\nAnswer: Hi\n\n"


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    options = EngineOptions(
        model=tiny_model, dtype="float32", context_length=512, stop_ids=(2,), log_probabilities=True
    )
    return start_engine("transformers", options)


@pytest.fixture(scope="module")
def prompter(tiny_model: Path) -> Prompter:
    return Prompter(load_tokenizer(tiny_model), "chat")


def by_hand(model: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """Sum of the natural log-probabilities of each option's tokens after its prompt, one whole pass each."""
    tokenizer, network = load_tokenizer(model), AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    for prompt, option in pairs:
        before, ids = tokenizer.encode(prompt), tokenizer.encode(option, add_special_tokens=False)
        with torch.inference_mode():
            shares_LV = network(torch.tensor([[*before, *ids]])).logits[0].log_softmax(dim=-1)
        found.append(sum(shares_LV[len(before) - 1 + place, token].item() for place, token in enumerate(ids)))
    return found


@pytest.mark.parametrize("prefix", [None, PREFIX])
@pytest.mark.parametrize(("form", "shots"), [("text", 0), ("text", 1), ("letters", 0), ("letters", 1)])
def test_log_likelihoods_and_the_option_chosen_are_those_of_whole_passes_by_hand(
    engine: Engine, prompter: Prompter, tiny_model: Path, form: ChoiceForm, shots: int, prefix: Prefix | None
) -> None:
    def shown(question: ChoiceQuestion) -> str:
        if form == "text":
            return f"Question: {question.question}\nAnswer:"
        listed = "\n".join(f"{letter}. {each}" for letter, each in zip("ABC", question.choices, strict=True))
        return f"Question: {question.question}\n{listed}\nAnswer:"

    tasks = load_tasks({"general": QUESTIONS}, shots=shots, form=form)
    done: list[int] = []
    found = choose(engine, prompter, tasks, role="teacher", prefix=prefix, advance=done.append)

    before = (BEHIND if prefix else "") + (f"{shown(QUESTIONS[0])} {'an apple' if form == 'text' else 'A'}\n\n" * shots)
    expected, pairs = [], []
    for question in QUESTIONS[shots:]:
        options = question.choices if form == "text" else "ABC"
        pairs += [(before + shown(question), f" {option}") for option in options]
        values = [value / len(option) for value, option in zip(by_hand(tiny_model, pairs[-3:]), options, strict=True)]
        expected.append(question.choices[values.index(max(values))])
    likelihoods = EngineModel(engine, prompter, prefix).loglikelihood(tasks.tasks["general"].instances)
    assert [value for value, _ in likelihoods] == pytest.approx(by_hand(tiny_model, pairs), abs=1e-4)
    assert found["chosen"].to_list() == expected
    assert found["number"].to_list() == list(range(shots, 3))
    assert found["question"].to_list() == [each.question for each in QUESTIONS[shots:]]
    right = [question.choices[question.answer] for question in QUESTIONS[shots:]]
    assert found["right"].to_list() == right
    assert found["correct"].to_list() == [one == other for one, other in zip(expected, right, strict=True)]
    assert sum(done) == tasks.options == len(pairs)
    (score,) = choice_scores(found).to_dicts()
    assert score["mean"] == pytest.approx(100 * sum(found["correct"]) / (3 - shots))
    assert (score["model"], score["metric"], score["n"]) == ("teacher", "accuracy", 3 - shots)


@pytest.mark.parametrize(("start", "first"), [("<|im_start|>", 1), (None, 2)])
def test_an_option_without_a_context_stands_behind_the_start_token_or_else_the_end_token(
    prompter: Prompter, tiny_model: Path, start: str | None, first: int
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.bos_token = start
    model = EngineModel(None, Prompter(tokenizer, "chat"), None)
    asked: list[list[int]] = []
    model._loglikelihood_tokens = lambda requests, **more: [  # type: ignore[method-assign]
        asked.append(context) or (0.0, False) for _, context, _ in requests
    ]

    model.loglikelihood([Instance("loglikelihood", {}, ("", " an apple"), 0, task_name="bare")])

    assert asked == [[first]]
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(DataError, match="has no token to begin with"):
        model.loglikelihood([Instance("loglikelihood", {}, ("", " an apple"), 0, task_name="bare")])


def test_the_longest_prompt_counts_examples_prefix_and_option(prompter: Prompter) -> None:
    tasks = load_tasks({"general": QUESTIONS}, shots=1, form="text")
    whole = "Question: Which is a fruit?\nAnswer: an apple\n\nQuestion: What is the sky?\nAnswer: a cake of flour"
    other = whole.replace("the sky", "two plus two").replace("a cake of flour", "a great many")
    sizes = [
        max(len(prompter.tokenizer.encode(before + each)) for each in (whole, other)) + 1 for before in ("", BEHIND)
    ]

    assert [longest_choice(tasks, prompter, prefix) for prefix in (None, PREFIX)] == sizes


@pytest.mark.slow
def test_a_task_by_name_is_answered_letter_by_letter_and_named_by_its_words(
    engine: Engine, prompter: Prompter, tiny_model: Path, task_folder: Path
) -> None:
    tasks = load_tasks({"general": QUESTIONS}, ["mmlu"], shots=5 - 3, form="text", folder=task_folder)
    found = choose(engine, prompter, tasks, role="base", prefix=None)

    for name, words in {
        "mmlu_anatomy": [["ulna", "femur", "rib", "skull"]],
        "mmlu_astronomy": [["Mars", "Venus", "the Sun", "Io"], ["Saturn", "Mars", "Io", "Ceres"]],
    }.items():
        values = by_hand(tiny_model, [each.args for each in tasks.tasks[name].instances])
        chosen = [
            options[max(range(4), key=lambda one, at=4 * place: values[at + one])]  # type: ignore[misc]
            for place, options in enumerate(words)
        ]
        own = found.filter(file=name)
        assert own["chosen"].to_list() == chosen
        assert own["number"].to_list() == list(range(len(words)))
        assert own["groups"].to_list() == [["mmlu", "mmlu_stem"]] * len(words)
    assert found.filter(file="mmlu_astronomy")["right"].to_list() == ["the Sun", "Saturn"]
    counts = {each["file"]: each["n"] for each in choice_scores(found).to_dicts()}
    assert counts == {"general": 1, "mmlu": 3, "mmlu_stem": 3, "mmlu_anatomy": 1, "mmlu_astronomy": 2}


def test_a_question_whose_right_option_is_none_of_them_is_no_wrong_answer(engine: Engine, prompter: Prompter) -> None:
    loaded = load_tasks({"general": QUESTIONS}, shots=0, form="text")
    loaded.tasks["general"].set_config("doc_to_target", 5)
    tasks = ChoiceTasks(loaded.tasks, loaded.origin, loaded.first, loaded.measure, loaded.groups)

    with pytest.raises(DataError, match="general: question 0 has the right option 5, which is none of"):
        choose(engine, prompter, tasks, role="base", prefix=None)
