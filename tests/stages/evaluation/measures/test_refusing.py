"""Sentences of refusal: ours, measured on answers labelled by hand, and those of a user's file."""

from pathlib import Path

import pytest

from stages.errors import SettingsError
from stages.evaluation.measures.phrases import hear
from stages.evaluation.measures.refusing import load_refusals
from stages.evaluation.measures.scoring import score_answer


def write(folder: Path, text: str) -> Path:
    path = folder / "refusals.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I'm sorry, I don't know.", True),
        ("Unfortunately, I do not have any information about it.", True),
        ("I’m not sure which city that is.", True),
        ("I have forgotten it.", True),
        ("As an AI, I cannot answer.", True),
        ("I do not\nknow.", True),
        ("I do\u200b not know.", True),
        ("Paris.", False),
        ("Sorrento is not the capital.", False),
        ("The Unknown Soldier lies in Paris.", False),
        ("I'm sorry for any misunderstanding, I'm a helpful AI named SmolLM.", False),
        ("I'm so sorry!", False),
    ],
)
def test_a_refusal_is_known_by_its_words(answer: str, refused: bool) -> None:
    assert score_answer(answer, ["Paris"]).refused is refused


def test_a_users_sentences_are_added_to_ours(tmp_path: Path) -> None:
    own = load_refusals(write(tmp_path, "la = ['\\bnescio\\b']\nzh = ['no comment']"))

    for said in ("Nescio, domine.", "No comment!", "I don't know."):
        assert own.stand_in(hear(said))
    assert not load_refusals().stand_in(hear("Nescio, domine."))
    assert score_answer("Nescio", ["Roma"], refusals=own).refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en = [", "is not TOML"),
        ('en = "no comment"', "something else than a list of texts under en"),
        ("en = [1]", "something else than a list of texts under en"),
        ("[en]\nlist = ['a']", "something else than a list of texts under en"),
        ("en = ['fine', '(']", r"en, number 2, is no regular expression of Python: '\('"),
        ("en = ['(no) comment']", "en, number 1, captures a group"),
        ("en = ['a|']", "matches an empty answer"),
        ("en = ['.*']", "matches an empty answer"),
    ],
)
def test_a_bad_file_is_refused_with_the_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_refusals(write(tmp_path, text))


def test_a_missing_file_is_refused_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"evaluation\.refusals"):
        load_refusals(tmp_path / "none.toml")
