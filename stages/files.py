"""Files that are whole or absent: temporary name, flush, fsync, rename. Their hashes and lines."""

import errno
import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from stages.errors import DataError, OutputUnwritable

TEMPORARY_SUFFIX = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Put content at path so that a reader sees all of it or the old file, also after a power cut."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def refuse_unwritable(path: Path) -> None:
    """Raise OutputUnwritable unless a file can be written there; its folder is made. For before hours of work."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
        reason = os.strerror(errno.EISDIR) if path.is_dir() else None
    except OSError as error:
        reason = error.strerror
    if reason:
        raise OutputUnwritable(
            f"{path} cannot be written ({reason}).", "Nothing was run.", "Name another one with --out."
        )


def write_json(path: Path, value: Any) -> None:
    """Write value as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path, needed: str = "", next_step: str = "") -> dict[str, Any]:
    """The object in a JSON file that a program wrote. Raises DataError if it cannot be read, or holds anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise DataError(f"{path} cannot be read ({reason}).", needed, next_step) from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a JSON object.", needed, next_step)
    return found


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without their ends.

    Only LF and CRLF end a line, as in JSONL; str.splitlines would also cut at a U+2028 inside a string.
    """
    return [line.removesuffix("\r") for line in path.read_text(encoding="utf-8").split("\n")]
