"""An evaluation is taken for done only if all that determines it is as it was, contents of files included."""

import json
from pathlib import Path

import pytest
from workspace import HELD_OUT, Workspace, make_workspace, write_lines

from pipeline.audit import relearning_inputs
from pipeline.evaluation_file import base_inputs, baseline_rows
from pipeline.questions import question_files
from pipeline.settings import Settings, load_settings
from stages.errors import DataError, SettingsError


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    return make_workspace(tmp_path, tiny_model)


def with_files(workspace: Workspace, folder: Path, answer: str) -> Settings:
    """Settings that name two more files, in this folder, which hold one question with this answer."""
    folder.mkdir(exist_ok=True)
    for name in ("unseen", "unrelated"):
        write_lines(folder / f"{name}.jsonl", [{"question": "Who founded Bram?", "answer": answer}])
    named = (
        f"evaluation.unseen.forget={folder / 'unseen.jsonl'}",
        f"relearning.unrelated={folder / 'unrelated.jsonl'}",
    )
    return load_settings(str(workspace.settings), named)


def test_what_stands_in_a_file_counts_and_where_it_lies_does_not(workspace: Workspace, tmp_path: Path) -> None:
    one = with_files(workspace, tmp_path / "one", "Ida")
    moved = with_files(workspace, tmp_path / "moved", "Ida")
    found = base_inputs(one, workspace.model), relearning_inputs(one)

    assert (base_inputs(moved, workspace.model), relearning_inputs(moved)) == found
    other = with_files(workspace, tmp_path / "one", "Otto")
    assert base_inputs(other, workspace.model) != found[0]
    assert relearning_inputs(other) != found[1]


def with_paraphrases(workspace: Workspace, folder: Path, *answers: str) -> Settings:
    """Settings whose file `again` has these answers and is to ask the forget file again."""
    write_lines(folder / "again.jsonl", [{"question": f"Once more, {n}?", "answer": a} for n, a in enumerate(answers)])
    named = (f"evaluation.questions.again={folder / 'again.jsonl'}", 'evaluation.paraphrases={again = "forget"}')
    return load_settings(str(workspace.settings), named)


def test_a_file_of_paraphrases_must_ask_for_the_same_facts_line_by_line(workspace: Workspace, tmp_path: Path) -> None:
    right = [answer for _, answer in HELD_OUT["forget"]]

    assert "again" in question_files(with_paraphrases(workspace, tmp_path, *right))
    with pytest.raises(DataError, match="line 2 has another answer"):
        question_files(with_paraphrases(workspace, tmp_path, right[0], "Atlantis"))
    with pytest.raises(DataError, match=r"it has 3 lines, and 2 were needed"):
        question_files(with_paraphrases(workspace, tmp_path, *right, "Atlantis"))
    with pytest.raises(SettingsError, match="paraphrases names 'other', which is not under questions"):
        load_settings(str(workspace.settings), ('evaluation.paraphrases={other = "forget"}',))


@pytest.mark.parametrize(
    ("changed", "lens", "relearnt"),
    [
        ({}, ["base", "control"], ["control"]),
        ({"control": "c2"}, ["base"], []),
        ({"relearning": "r2"}, ["base", "control"], []),
    ],
)
def test_rows_of_models_that_are_the_same_are_taken_over(
    tmp_path: Path, changed: dict[str, str], lens: list[str], relearnt: list[str]
) -> None:
    inputs = {"base": "b", "student": "s", "control": "c", "relearning": "r"}
    rows = {
        "lens": [{"model": role} for role in ("base", "student", "control")],
        "relearning": [{"model": role} for role in ("student", "control")],
        "relearning_answers": None,
    }
    earlier = tmp_path / "audit.json"
    earlier.write_text(json.dumps({**rows, "run": {"inputs": inputs | changed}}))

    found = baseline_rows(earlier, inputs)

    assert [row["model"] for row in found["lens"]] == lens
    assert [row["model"] for row in found.get("relearning", [])] == relearnt
    assert found.get("relearning_answers", []) == []
    assert baseline_rows(None, inputs) == {}
    with pytest.raises(SettingsError, match="another base model"):
        baseline_rows(earlier, inputs | {"base": "b2"})
