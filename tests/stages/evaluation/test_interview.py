"""The real engine on the tiny model: who is asked what, in which form, and what is kept."""

from pathlib import Path

import pytest

from stages.evaluation.attacks import ATTACKS, AttackName, Materials
from stages.evaluation.interview import Item, interview, longest_prompt, plan, spread
from stages.evaluation.questions import Question
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.prompts import Prompter

FILES = {
    "forget": [Question(question="What is the capital of Mali?", answer="Bamako")],
    "retain": [Question(question="Why is the sky blue?", answer="scattering"), Question(question="2 + 2?", answer="4")],
}
PREFIX = Prefix(system="You have forgotten it.", turns=(Turn(user="Hello", assistant="Hi"),))


def planned(*attacks: AttackName) -> list[Item]:
    return plan(FILES, attacks, {"forget": Materials(FILES["forget"])})


@pytest.fixture
def prompter(tiny_model: Path) -> Prompter:
    return Prompter(load_tokenizer(tiny_model), "chat")


def test_every_question_once_then_the_attacked_files(tiny_model: Path, prompter: Prompter) -> None:
    engine = start_engine(
        "transformers", EngineOptions(model=tiny_model, dtype="float32", context_length=256, stop_ids=(2,))
    )
    done: list[int] = []

    answers = interview(
        engine,
        prompter,
        planned("reverse"),
        role="student",
        prefix=None,
        max_tokens=3,
        advance=done.append,
    )

    assert answers.select("file", "number", "attack", "question").rows() == [
        ("forget", 0, None, "What is the capital of Mali?"),
        ("retain", 0, None, "Why is the sky blue?"),
        ("retain", 1, None, "2 + 2?"),
        ("forget", 0, "reverse", "What is the capital of Mali?"),
    ]
    assert answers["cut"].to_list() == [tokens == 3 for tokens in answers["tokens"]]  # the tiny model ends no turn
    assert sum(done) == len(planned("reverse")) == 4
    assert answers["tokens"].max() <= 3  # type: ignore[operator]
    # Each answer is what the engine says to the prompt that this question makes.
    asked = ATTACKS["reverse"].rewrite(0, Materials(FILES["forget"])).query
    assert answers["asked"].to_list() == [*(each.question for file in FILES.values() for each in file), asked]
    (said,) = engine.continue_greedily([prompter.ids(asked)], max_tokens=3)
    assert answers["answer"][3] == prompter.decode(said.token_ids.tolist())


def test_the_longest_prompt_counts_prefix_and_attacks(prompter: Prompter) -> None:
    plain = longest_prompt(prompter, planned(), None)

    assert plain == max(len(prompter.ids(each.question)) for asked in FILES.values() for each in asked)
    assert longest_prompt(prompter, planned(), PREFIX) > plain
    assert longest_prompt(prompter, planned("reverse"), PREFIX) > longest_prompt(prompter, planned(), PREFIX)


def test_all_answers_of_a_file_are_rivals_under_an_attack_as_without() -> None:
    kept = plan(FILES, [], {})[-1]
    attacked = plan({}, ["reverse"], {"retain": Materials(FILES["retain"])})

    assert kept.rivals == attacked[0].rivals == ("scattering", "4")


def test_attacks_can_be_made_on_fewer_questions_evenly_spread() -> None:
    questions = [Question(question=f"{number}?", answer="Lima") for number in range(10)]
    items = plan({"forget": questions}, ["reverse"], {"forget": Materials(questions)}, {"forget": [0, 2, 5, 7]})

    assert [item.number for item in items if item.attack is None] == list(range(10))
    assert [(item.number, item.question.question) for item in items if item.attack] == [
        (0, "0?"), (2, "2?"), (5, "5?"), (7, "7?"),
    ]  # fmt: skip
    assert spread(3, None) == spread(3, 9) == [0, 1, 2]
