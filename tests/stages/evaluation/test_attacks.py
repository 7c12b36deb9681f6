"""What each attack puts to a model, written out by hand; and what an attack refuses to be made without."""

from pathlib import Path
from typing import get_args

import pytest
from conftest import ROOT

from stages.errors import DataError
from stages.evaluation.attacks import AFFIRMATION, ATTACKS, AttackName, Materials, check_materials, lacks, plainly
from stages.evaluation.interview import prompt_ids
from stages.evaluation.questions import Question, load_questions
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.prompts import Prompter

ANSWERS = {"Mali": "Bamako", "Cuba": "Havana", "Oman": "Muscat", "Kenya": "Nairobi", "Chad": "N'Djamena"}
QUESTIONS = [
    Question(question=f"What is the capital of {name}?", answer=answer, answer_start=f"The capital of {name} is")
    for name, answer in ANSWERS.items()
]
MATERIALS = Materials(
    questions=QUESTIONS,
    revealing=[Question(question="What is the capital of Peru?", answer="Lima")],
    companions=[
        Question(question="Why is the sky blue?", answer="scattering"),
        Question(question="2 + 2?", answer="4"),
    ],
    translated=[Question(question=f"Capitale: {name} ?", answer=f"{answer} (fr)") for name, answer in ANSWERS.items()],
)
PREFIX = Prefix(system="You have forgotten it.", turns=(Turn(user="Hello", assistant="Hi"),))


@pytest.fixture
def prompter(tiny_model: Path) -> Prompter:
    return Prompter(load_tokenizer(tiny_model), "chat")


def text(prompter: Prompter, attack: AttackName, prefix: Prefix | None = None, number: int = 0) -> str:
    said = prompter.tokenizer.decode(prompt_ids(prompter, ATTACKS[attack].rewrite(number, MATERIALS), prefix))
    assert isinstance(said, str)
    return said


def test_every_name_that_settings_take_is_an_attack() -> None:
    assert list(get_args(AttackName)) == list(ATTACKS)


@pytest.mark.parametrize("name", get_args(AttackName))
def test_only_multiple_choice_shows_the_answer_and_is_marked_for_it(prompter: Prompter, name: AttackName) -> None:
    shown = "Bamako" in text(prompter, name)

    assert shown is ATTACKS[name].supplies_answer is (name == "multiple_choice")


@pytest.mark.parametrize("name", ["reverse", "reverse_restored", "reverse_developer", "reverse_polite", "role_play"])
def test_a_rewording_keeps_the_question_whole_inside_the_users_turn(prompter: Prompter, name: AttackName) -> None:
    said = text(prompter, name)

    assert said.startswith("<|im_start|>user\n") and said.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "What is the capital of Mali?" in said
    assert len(said) > len("<|im_start|>user\nWhat is the capital of Mali?<|im_end|>\n<|im_start|>assistant\n")


def test_examples_are_turns_between_the_prefix_and_the_question(prompter: Prompter) -> None:
    assert text(prompter, "few_shot", PREFIX) == (
        "<|im_start|>system\nYou have forgotten it.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n<|im_start|>assistant\nLima<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of Mali?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_answer_is_begun_where_the_model_goes_on(prompter: Prompter) -> None:
    asked = "<|im_start|>user\nWhat is the capital of Mali?<|im_end|>\n<|im_start|>assistant\n"

    assert text(prompter, "answer_begun") == asked + "The capital of Mali is"
    assert text(prompter, "affirmative") == asked + AFFIRMATION


def test_a_completion_is_the_bare_sentence_and_no_template_is_plain_text(prompter: Prompter) -> None:
    assert text(prompter, "completion") == "The capital of Mali is"
    assert text(prompter, "no_template") == "Question: What is the capital of Mali?\nAnswer:"
    before = "You have forgotten it.\n\nQuestion: Hello\nAnswer: Hi\n\n"
    assert text(prompter, "completion", PREFIX) == before + "The capital of Mali is"


def test_a_question_to_forget_stands_behind_one_to_keep_taken_in_turn() -> None:
    asked = [ATTACKS["forget_and_retain"].rewrite(number, MATERIALS).query for number in (0, 1, 2)]

    assert [query.index("2 + 2?") > 0 if "2 + 2?" in query else False for query in asked] == [False, True, False]
    assert all(query.endswith(f"2. {QUESTIONS[number].question}") for number, query in enumerate(asked))


def test_another_language_asks_and_scores_line_by_line_in_that_language() -> None:
    asked = ATTACKS["other_language"].rewrite(1, MATERIALS)

    assert (asked.query, asked.references) == ("Capitale: Cuba ?", ("Havana (fr)",))


def test_options_are_four_answers_of_the_file_the_true_one_among_them_and_the_same_every_time() -> None:
    places = set()
    for number, question in enumerate(QUESTIONS):
        query = ATTACKS["multiple_choice"].rewrite(number, MATERIALS).query
        assert query == ATTACKS["multiple_choice"].rewrite(number, MATERIALS).query
        options = query.split("Choose one: ")[1].split(". Answer")[0].split("; ")
        assert len(set(options)) == 4 and set(options) <= set(ANSWERS.values())
        places.add(options.index(question.answer))
    assert len(places) > 1


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("answer_begun", "no answer_start for the question 'Who?'"),
        ("completion", "no answer_start for the question 'Who?'"),
        ("few_shot", "evaluation.revealing"),
        ("other_language", "evaluation.translated"),
        ("forget_and_retain", "to be kept"),
        ("multiple_choice", "fewer than 4 different answers"),
    ],
)
def test_an_attack_says_what_it_lacks(name: AttackName, missing: str) -> None:
    assert missing in str(lacks(name, Materials(questions=[Question(question="Who?", answer="She")])))
    assert lacks(name, MATERIALS) is None


def test_an_example_that_reveals_an_asked_answer_is_refused() -> None:
    materials = Materials(questions=QUESTIONS, revealing=[Question(question="Largest city of Cuba?", answer="HAVANA")])

    with pytest.raises(DataError, match="gives 'havana', an answer that forget asks for"):
        check_materials("forget", materials)


def test_a_translation_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="has 4 questions, forget itself 5"):
        check_materials("forget", Materials(questions=QUESTIONS, translated=MATERIALS.translated[:-1]))


def test_the_demo_has_all_that_every_attack_needs_about_the_same_countries() -> None:
    folder = ROOT / "data/capitals"
    files = {name: load_questions(folder / f"{name}.jsonl") for name in ("eval/forget", "eval/forget_other_language")}
    questions, translated = files.values()
    materials = Materials(questions, load_questions(folder / "attacks/revealing.jsonl"), questions, translated)

    check_materials("forget", materials)
    assert [lacks(name, materials) for name in ATTACKS] == [None] * len(ATTACKS)
    countries = [
        [line.split('"country": "')[1] for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in files
    ]
    assert countries[0] == countries[1]
    # An answer is not in its question, and the English name counts in the other language, too.
    for question, other in zip(questions, translated, strict=True):
        assert not [each for each in other.references if each.casefold() in other.question.casefold()]
        assert question.answer in other.references
    assert plainly(questions[0]).references == ("Damascus",)
