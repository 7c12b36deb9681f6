"""One process at a time in a folder, and a planted `.lock` is not followed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stages.errors import CacheError, OutputUnwritable
from stages.folder_lock import LOCK, hold_alone

BUSY = CacheError("busy")
HOLD = """
import sys
from pathlib import Path
from stages.errors import CacheError
from stages.folder_lock import hold_alone

lock = hold_alone(Path(sys.argv[1]), CacheError("busy"))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new/folder"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout and other.stdout.readline() == "held\n"
    with pytest.raises(CacheError, match="busy"):
        hold_alone(folder, BUSY)

    other.kill()
    other.communicate()

    with hold_alone(folder, BUSY):
        pass


def test_a_released_lock_is_free_and_releasing_it_twice_frees_no_other(tmp_path: Path) -> None:
    first = hold_alone(tmp_path, BUSY)
    first.release()
    second = hold_alone(tmp_path, BUSY)
    first.release()

    with pytest.raises(CacheError, match="busy"):
        hold_alone(tmp_path, BUSY)
    second.release()


@pytest.mark.parametrize("planted", ["link", "dangling link", "folder", "pipe"])
def test_a_lock_that_is_no_plain_file_is_refused_in_one_line_and_nothing_is_written(
    tmp_path: Path, planted: str
) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    lock = folder / LOCK
    if planted == "link":
        elsewhere.write_text("of value")
        lock.symlink_to(elsewhere)
    elif planted == "dangling link":
        lock.symlink_to(elsewhere)
    elif planted == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)

    with pytest.raises(OutputUnwritable) as error:
        hold_alone(folder, BUSY)

    assert str(lock) in error.value.found and "\n" not in error.value.found
    assert elsewhere.exists() == (planted == "link")
    if planted == "link":
        assert elsewhere.read_text() == "of value"
