"""One process at a time in a folder: a lock that ends with the process, however it ends.

The file `.lock` stays when the lock is released: removing it would let two processes lock two files of one name.
"""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

from stages.errors import DuetError, OutputUnwritable
from stages.files import NO_ROOM, make_folder, refuse_irregular

LOCK = ".lock"


class FolderLock:
    """A lock that is held, until `release`, the end of a `with` block, or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others in. A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def hold_alone(folder: Path, busy: DuetError) -> FolderLock:
    """Lock the folder, which is made if it is not there, against every other process.

    busy: raised if another process holds it.
    Raises OutputUnwritable if its `.lock` is anything but a plain file, which nothing here would have made, or cannot
    be opened.
    """
    make_folder(folder)
    path = folder / LOCK
    try:
        # Neither through a link nor waiting for the other end of a pipe, and nothing in it is changed.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        reason = "a link" if error.errno == errno.ELOOP else error.strerror
        raise OutputUnwritable(
            f"{path} cannot be locked ({reason}).",
            "A plain file was needed, which only one process can hold, so nothing was written.",
            "Remove it, or name another folder.",
        ) from error
    refuse_irregular(descriptor, path)
    lock = FolderLock(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.release()
        raise busy from None
    except OSError as error:
        lock.release()
        raise OutputUnwritable(
            f"{path} cannot be locked ({error.strerror}).",
            "The file system must be able to lock files, so that two processes cannot write one folder.",
            "Name a folder on another file system.",
        ) from error
    return lock
