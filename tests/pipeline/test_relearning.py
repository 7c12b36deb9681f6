"""Relearning on the tiny model: the attacker's half is learnt, the other half asked, and the audited folder only read."""

from pathlib import Path

import polars as pl
import pytest
from workspace import Workspace, make_workspace, write_lines

from pipeline.isolation import in_own_process
from pipeline.relearning import HALF, Relearnt, diets, halves, relearn
from pipeline.settings import Settings, load_settings
from stages.errors import SettingsError
from stages.evaluation.questions import Question, load_questions
from stages.language_model.folder import hash_weights

TOWNS = ["Bram", "Tolm", "Vesk", "Orra", "Lind", "Marr", "Quay", "Sedd"]
STEPS = (0, 2, 24)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    folder = tmp_path_factory.mktemp("attacked")
    workspace = make_workspace(folder, tiny_model)
    facts = [{"question": f"Who founded {town}?", "answer": "Ida"} for town in TOWNS]
    write_lines(folder / "questions-forget.jsonl", facts)
    return workspace


def settings_of(workspace: Workspace, *more: str) -> Settings:
    own = ("relearning.batch_rows=4", "relearning.learning_rate=0.01", f"relearning.steps={list(STEPS)}")
    return load_settings(str(workspace.settings), (*own, *more))


def test_the_halves_are_every_second_line_and_share_no_question() -> None:
    questions = [Question(question=str(number), answer="Lima") for number in range(5)]

    assert [[each.question for each in half] for half in halves(questions)] == [["0", "2", "4"], ["1", "3"]]


def test_without_an_unrelated_file_there_is_one_diet(attacked: Workspace) -> None:
    assert set(diets(settings_of(attacked), "forget")) == {"forget"}
    unrelated = f"relearning.unrelated={attacked.folder / 'questions-forget.jsonl'}"
    assert set(diets(settings_of(attacked, unrelated), "forget")) == {"forget", "unrelated"}


def test_an_attacker_with_less_than_a_batch_is_refused(attacked: Workspace) -> None:
    with pytest.raises(SettingsError, match="has 4 questions \\(forget\\), and a batch takes 8"):
        diets(settings_of(attacked, "relearning.batch_rows=8"), "forget")


def test_steps_must_rise_from_before_the_first_one(attacked: Workspace) -> None:
    for steps in ("[1, 2]", "[0, 4, 4]"):
        with pytest.raises(SettingsError, match="steps must rise from 0"):
            settings_of(attacked, f"relearning.steps={steps}")


@pytest.fixture(scope="module")
def curve(attacked: Workspace) -> Relearnt:
    before = hash_weights(attacked.model)
    found = in_own_process(relearn, settings_of(attacked), attacked.model, "student", "forget", "forget")
    assert isinstance(found, Relearnt)
    assert hash_weights(attacked.model) == before
    return found


@pytest.mark.slow
def test_the_held_out_half_is_asked_at_every_point_of_the_curve(attacked: Workspace, curve: Relearnt) -> None:
    _, held_out = halves(load_questions(attacked.folder / "questions-forget.jsonl"))

    assert curve.answers.group_by("step").len().sort("step").rows() == [(step, len(held_out)) for step in STEPS]
    assert set(curve.answers["question"]) == {each.question for each in held_out}
    recall = curve.scores.filter(pl.col("metric") == "rouge_l_recall")
    assert recall["step"].to_list() == list(STEPS)
    assert set(recall["file"]) == {HALF.format("forget")}
    assert set(recall["n"]) == {len(held_out)}


@pytest.mark.slow
def test_what_the_attacker_teaches_shows_in_the_other_half(curve: Relearnt) -> None:
    # Every founder is Ida, so the half that is never trained on can be answered from the half that is.
    recall = dict(curve.scores.filter(pl.col("metric") == "rouge_l_recall").select("step", "mean").rows())
    assert recall[0] == 0
    assert recall[24] == 100
