"""Question files that the settings name: what they must hold."""

from pathlib import Path

import pytest
from workspace import HELD_OUT, Workspace, make_workspace, write_lines

from pipeline.questions import question_files
from pipeline.settings import Settings, load_settings
from stages.errors import DataError, SettingsError


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    return make_workspace(tmp_path, tiny_model)


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
