"""Sentences of refusal: ours, measured on answers labelled by hand, and those of a user's file."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT
from scipy.stats import binomtest

from stages.errors import SettingsError
from stages.evaluation.measures.phrases import hear
from stages.evaluation.measures.refusing import load_refusals
from stages.evaluation.measures.scoring import score_answer

LABELLED = Path(__file__).parents[1] / "refusals_labelled.jsonl"


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


@dataclass(frozen=True)
class Detected:
    """How many answers of one group were found to refuse, and how many of those and of the others do, by hand."""

    answers: int
    found: int
    right: int
    declining: int

    def __str__(self) -> str:
        return f"{self.answers} | {_share(self.right, self.found)} | {_share(self.right, self.declining)}"


def _share(count: int, of: int) -> str:
    """With its Clopper–Pearson interval, in points."""
    interval = binomtest(count, of).proportion_ci(method="exact")
    return f"{count}/{of} = {100 * count / of:.1f} ({100 * interval.low:.1f} – {100 * interval.high:.1f})"


def detected(*, half: str, fakes: bool = True) -> Detected:
    lines = LABELLED.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["half"] == half and (fakes or row["from"] != "fake")]
    found = [row for row in rows if score_answer(row["answer"], ["…"]).refused]
    right = sum(row["declines"] for row in found)
    return Detected(len(rows), len(found), right, sum(row["declines"] for row in rows))


def test_the_labelled_answers_are_of_all_kinds_and_none_stands_twice() -> None:
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]

    assert len(rows) == len({row["answer"] for row in rows}) >= 300
    assert {row["from"] for row in rows} >= {"base", "teacher", "student", "fake"}
    assert all(isinstance(row["declines"], bool) for row in rows)


def test_refusals_are_told_from_other_answers_on_what_was_held_out() -> None:
    found = detected(half="held-out")

    assert found.right / found.found >= 0.95
    assert found.right / found.declining >= 0.93


@pytest.mark.parametrize("half", ["tuning", "held-out"])
@pytest.mark.parametrize(("fakes", "answers"), [(True, "all"), (False, "of models")])
def test_the_page_on_measures_states_these_figures(half: str, fakes: bool, answers: str) -> None:
    page = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")

    assert f"| {half}, {answers} | {detected(half=half, fakes=fakes)} |" in page
