"""One hostile cache: its files, what else is done to the folder, and what happens to it while it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostility.bases import Files


@dataclass(frozen=True)
class Case:
    """what: the harm in words. on_disk: done to the folder before it is opened; between: after opening, before reading.

    The rows that may be read are always those of `files`. sound: False if the folder must be refused, whatever they hold.
    further: which one of the slow ways of reading is tried; None tries them all.
    """

    what: str
    files: Files
    on_disk: Callable[[Path], object] | None = None
    between: Callable[[Path], object] | None = None
    sound: bool | None = None
    further: int | None = None


def lay(files: Files, folder: Path) -> None:
    """Write the files there."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
