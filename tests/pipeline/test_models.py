"""An evaluation is taken for done only if all that determines it is as it was, contents of files included."""

from pathlib import Path

import pytest
from workspace import Workspace, make_workspace, write_lines

from pipeline.audit import relearning_inputs
from pipeline.instructions import instructions_inputs
from pipeline.models import base_inputs
from pipeline.settings import Settings, load_settings


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


def test_requests_count_for_the_part_that_makes_them_and_not_for_what_else_is_asked(
    workspace: Workspace, tmp_path: Path
) -> None:
    def hashes(request: str, tokens: int) -> tuple[str, str]:
        path = write_lines(tmp_path / "asked.jsonl", [{"request": request, "kind": "write"}])
        named = (f"evaluation.requests={path}", f"evaluation.request_tokens={tokens}")
        settings = load_settings(str(workspace.settings), named)
        return base_inputs(settings, workspace.model), instructions_inputs(settings)

    found = hashes("Write a poem.", 8)
    for other in (hashes("Write a letter.", 8), hashes("Write a poem.", 9)):
        assert other[0] == found[0] and other[1] != found[1]
