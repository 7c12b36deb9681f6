"""Temporary folders go with their process, and those of killed processes with the next one; nobody else's is touched."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stages.scratch import scratch_folder

HOLDS_ONE = """
import sys, time
from stages.scratch import scratch_folder
with scratch_folder("test") as folder:
    (folder / "data").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_block_also_when_that_fails(temporary: Path) -> None:
    with pytest.raises(KeyError), scratch_folder("test") as folder:
        (folder / "data").write_text("x")
        raise KeyError
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_killed_process_goes_with_the_next_call_and_that_of_a_living_one_stays(temporary: Path) -> None:
    held = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", HOLDS_ONE], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        held.append((process, Path(process.stdout.readline().strip())))
    (killed, left), (living, used) = held
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (left / "data").exists()

    with scratch_folder("test") as own:
        assert not left.exists()
        assert (used / "data").exists()
        assert own not in (left, used)

    living.kill()
    living.wait()


def test_folders_of_another_name_and_links_are_left_alone(temporary: Path) -> None:
    (temporary / "duet-other-1").mkdir()
    (temporary / "elsewhere").mkdir()
    (temporary / "duet-test-link").symlink_to(temporary / "elsewhere")
    with scratch_folder("test"):
        pass
    assert sorted(path.name for path in temporary.iterdir()) == ["duet-other-1", "duet-test-link", "elsewhere"]
