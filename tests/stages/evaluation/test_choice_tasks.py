"""What lm-eval lays out, literally: files of one's own, and its MMLU by name on local questions. All without a network."""

import socket
from pathlib import Path
from typing import Any

import pytest

from stages.errors import DataError, SettingsError
from stages.evaluation.choice_tasks import ChoiceTasks, left_out_tasks, load_tasks
from stages.evaluation.choices import ChoiceQuestion
from stages.evaluation.questions import ChoiceForm

QUESTIONS = [
    ChoiceQuestion(question="Which is a fruit?", choices=("an apple", "a rock", "iron"), answer=0),
    ChoiceQuestion(question="What is two plus two?", choices=("five", "four"), answer=1),
    # Neither a template nor a date is made of what stands in a question.
    ChoiceQuestion(question="When was {{x}}?", choices=("1969-07-20", "2001-01-01 10:00:00", "7"), answer=0),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any attempt to reach another machine fails the test."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was reached for")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def laid_out(tasks: ChoiceTasks, name: str) -> list[tuple[str, str]]:
    return [each.args for each in tasks.tasks[name].instances]


def test_a_question_is_asked_plainly_and_its_options_follow_a_space() -> None:
    tasks = load_tasks({"general": QUESTIONS}, shots=0, form="text")

    assert laid_out(tasks, "general") == [
        ("Question: Which is a fruit?\nAnswer:", " an apple"),
        ("Question: Which is a fruit?\nAnswer:", " a rock"),
        ("Question: Which is a fruit?\nAnswer:", " iron"),
        ("Question: What is two plus two?\nAnswer:", " five"),
        ("Question: What is two plus two?\nAnswer:", " four"),
        ("Question: When was {{x}}?\nAnswer:", " 1969-07-20"),
        ("Question: When was {{x}}?\nAnswer:", " 2001-01-01 10:00:00"),
        ("Question: When was {{x}}?\nAnswer:", " 7"),
    ]
    assert tasks.options == 8 and tasks.measure == {"general": "acc_norm"}


def test_in_letters_the_options_are_listed_and_as_many_letters_scored() -> None:
    tasks = load_tasks({"general": QUESTIONS[:2]}, shots=0, form="letters")

    asked = "Question: What is two plus two?\nA. five\nB. four\nAnswer:"
    assert laid_out(tasks, "general")[3:] == [(asked, " A"), (asked, " B")]
    assert tasks.options == 5 and tasks.measure == {"general": "acc"}


@pytest.mark.parametrize(("form", "first"), [("text", "an apple"), ("letters", "A")])
def test_the_first_questions_stand_solved_before_the_others_and_are_not_scored(form: ChoiceForm, first: str) -> None:
    more = [ChoiceQuestion(question=f"How many is {each}?", choices=("one", "two"), answer=1) for each in "abcd"]
    tasks = load_tasks({"general": [QUESTIONS[0], *more, QUESTIONS[1]]}, shots=5, form=form)

    def listed(*options: str) -> str:
        return "".join(f"\n{each}" for each in options) if form == "letters" else ""

    second = "B" if form == "letters" else "two"
    before = f"Question: Which is a fruit?{listed('A. an apple', 'B. a rock', 'C. iron')}\nAnswer: {first}\n\n"
    for each in "abcd":
        before += f"Question: How many is {each}?{listed('A. one', 'B. two')}\nAnswer: {second}\n\n"
    asked = f"{before}Question: What is two plus two?{listed('A. five', 'B. four')}\nAnswer:"
    assert laid_out(tasks, "general") == [
        (asked, f" {each}") for each in (("A", "B") if form == "letters" else ("five", "four"))
    ]
    assert tasks.first == {"general": 5}


def test_a_file_of_ones_own_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tasks = load_tasks({"general": QUESTIONS}, shots=0, form="text")

    assert list(tmp_path.iterdir()) == []
    # The questions are still there.
    assert len(tasks.tasks["general"].eval_docs) == 3


def test_the_digest_is_of_what_is_asked_and_of_what_is_right() -> None:
    def digest(*questions: ChoiceQuestion, shots: int = 0) -> str:
        return load_tasks({"general": questions}, shots=shots, form="text").digests()["general"]

    one = QUESTIONS[1]
    assert digest(one) == digest(one)
    others = [one.model_copy(update={"answer": 0}), one.model_copy(update={"question": "What is 2 + 2?"})]
    assert len({digest(one), digest(QUESTIONS[0], one, shots=1), *map(digest, others)}) == 4


@pytest.mark.slow
def test_mmlu_by_name_is_laid_out_as_lm_eval_does_with_its_examples_and_groups(task_folder: Path) -> None:
    tasks = load_tasks({}, ["mmlu"], shots=5, form="text", folder=task_folder)
    solved = "".join(f"Example {each}?\nA. p\nB. q\nC. r\nD. s\nAnswer: D\n\n" for each in range(5))
    head = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    asked = head + solved + "Which bone is in the leg?\nA. ulna\nB. femur\nC. rib\nD. skull\nAnswer:"

    assert laid_out(tasks, "mmlu_anatomy") == [(asked, f" {letter}") for letter in "ABCD"]
    assert tasks.groups == {"mmlu_anatomy": ["mmlu", "mmlu_stem"], "mmlu_astronomy": ["mmlu", "mmlu_stem"]}
    assert tasks.options == 12 and set(tasks.measure.values()) == {"acc"}
    bare = load_tasks({}, ["mmlu"], shots=0, form="text", folder=task_folder)
    assert laid_out(bare, "mmlu_anatomy")[0][0] == head + asked.removeprefix(head + solved)


@pytest.mark.slow
def test_names_that_cannot_be_asked_are_refused_with_what_to_do(
    task_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def refused(*names: str, **files: list[ChoiceQuestion]) -> str:
        with pytest.raises((SettingsError, DataError)) as caught:
            load_tasks(files, names, shots=0, form="text", folder=task_folder)
        return str(caught.value)

    assert "no task mmlu_anatomi; near it are mmlu_anatomy" in refused("mmlu_anatomi")
    assert "The task spoken is no multiple choice" in refused("spoken")
    assert "gives mmlu_anatomy twice" in refused("mmlu", "mmlu_anatomy")
    assert "gives mmlu_stem twice" in refused("mmlu", mmlu_stem=QUESTIONS)
    away = refused("away")
    assert "task away cannot be had" in away and "nobody/nothing" in away
    assert "--set evaluation.choices.away=FILE" in away and "HF_HUB_OFFLINE" in away
    reasons = left_out_tasks(["mmlu", "away"], shots=0, folder=task_folder)
    assert list(reasons) == ["away"] and "cannot be had" in reasons["away"]
    with pytest.raises(SettingsError, match="no task mmlo"):
        left_out_tasks(["mmlo"], shots=0, folder=task_folder)


def test_a_folder_that_is_not_there_is_said_before_anything_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such folder"):
        load_tasks({}, ["mmlu"], shots=0, form="text", folder=tmp_path / "none")
