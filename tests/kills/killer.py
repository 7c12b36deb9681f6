"""Ends this process, and all that it started, at a chosen change of the disk.

A change is what Python tells its audit hooks before it is made (a file opened for writing, a rename, a removal, a new folder,
changed permissions), and an fsync. Only changes below the given folders count, whoever makes them: the counter is shared
by all processes forked from here.
"""

import mmap
import os
import signal
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.utime",
}


class Killer:
    """below: the folders. kill_at: number of the change before which the signal comes, from 1; 0 for never."""

    def __init__(self, below: tuple[Path, ...], kill_at: int, number: signal.Signals) -> None:
        self.below = tuple(f"{each}/" for each in below)
        self.kill_at, self.number = kill_at, number
        self.shared = mmap.mmap(-1, 8)
        self.real_fsync = os.fsync

    @property
    def steps(self) -> int:
        return int.from_bytes(self.shared[:8], "little")

    def install(self) -> None:
        """For good: an audit hook cannot be taken away. Only to be called in a process made for one run."""
        os.fsync = self.fsync
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and self.is_below(path):
                self.step()
        elif event in CHANGES and (self.is_below(arguments[0]) or self.has_folder(arguments)):
            self.step()

    def has_folder(self, arguments: tuple[Any, ...]) -> bool:
        """Named within an opened folder, as shutil.rmtree does."""
        return isinstance(arguments[-1], int) and arguments[-1] >= 0 and not os.fsdecode(arguments[0]).startswith("/")

    def is_below(self, path: Any) -> bool:
        if isinstance(path, int):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.below)  # noqa: PTH100

    def fsync(self, descriptor: int) -> None:
        self.step()
        self.real_fsync(descriptor)

    def step(self) -> None:
        steps = self.steps + 1
        self.shared[:8] = steps.to_bytes(8, "little")
        if steps != self.kill_at:
            return
        if self.number == signal.SIGTERM:  # as a scheduler sends it: to the command itself
            os.kill(os.getpgid(0), self.number)
        else:
            os.killpg(0, self.number)
