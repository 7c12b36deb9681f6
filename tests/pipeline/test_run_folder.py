"""What a killed run leaves behind, and what a lock is."""

from pathlib import Path

import pytest

from pipeline.run_folder import RunFolder
from stages.errors import DuetError
from stages.files import remove_tree


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that is finished, with all that a kill may have left in it."""
    folder = tmp_path / "run"
    for name in ("model", "checkpoints/step-00000001", "export-x.partial", "model.partial", "universal.partial"):
        (folder / name).mkdir(parents=True)
    for name in (
        "run.json",
        "metrics.jsonl",
        "stop",
        "plan.json.partial",
        "model/README.md.partial",
        "model/README.md",
    ):
        (folder / name).write_text("{}")
    return RunFolder(folder, "student", {}, {})


def names(run: RunFolder) -> set[str]:
    return {path.relative_to(run.path).as_posix() for path in run.path.rglob("*")} - {".lock"}


def test_a_finished_run_loses_what_a_kill_left(run: RunFolder) -> None:
    run.tidy()

    assert names(run) == {"model", "model/README.md", "run.json", "metrics.jsonl"}


def test_links_and_things_of_another_kind_go_as_well_and_what_they_name_stays(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "mine/step").mkdir(parents=True)
    for name in ("checkpoints", "model.partial", "stop"):
        remove_tree(run.path / name)
    (run.path / "checkpoints").symlink_to(tmp_path / "mine")
    (run.path / "model.partial").symlink_to(tmp_path / "mine")
    (run.path / "stop").mkdir()

    run.tidy()

    assert names(run) == {"model", "model/README.md", "run.json", "metrics.jsonl"}
    assert (tmp_path / "mine/step").is_dir()


def test_nothing_is_removed_under_another_process(run: RunFolder) -> None:
    before = names(run)
    lock = run.hold_alone()
    run.tidy()
    lock.release()

    assert names(run) == before


def test_a_lock_that_is_a_link_is_refused_and_what_it_names_is_left(run: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (run.path / ".lock").symlink_to(mine)

    with pytest.raises(DuetError):
        run.hold_alone()
    with pytest.raises(DuetError):
        run.tidy()

    assert mine.read_text() == "mine"
