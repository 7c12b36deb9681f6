"""Room in the system's temporary folder that no kill leaves behind for ever.

Nothing can tidy up after SIGKILL but a later call. Each folder is locked as long as its process lives, so that whoever can
lock one knows that its process is gone.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.errors import DuetError, OutputUnwritable
from stages.files import remove_tree
from stages.folder_lock import hold_alone


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """An empty folder of one's own, which goes with the block. Those of the same name whose processes were killed go first."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"duet-{name}-*"):
        _remove_if_abandoned(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"duet-{name}-", dir=parent))
        # Another process may have taken it for abandoned before it was locked.
        with suppress(DuetError):
            lock = hold_alone(folder, _in_use(folder))
            break
    try:
        with lock:
            (folder / "own").mkdir()
            yield folder / "own"
    finally:
        remove_tree(folder)


def _remove_if_abandoned(folder: Path) -> None:
    # Of another user it is not ours to judge, and a link is nothing that was made here.
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return
    with suppress(DuetError), hold_alone(folder, _in_use(folder)):
        remove_tree(folder)


def _in_use(folder: Path) -> DuetError:
    return OutputUnwritable(f"{folder} is in use by another process.")
