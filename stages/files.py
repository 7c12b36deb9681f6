"""Files that are whole or absent: temporary name, flush, fsync, rename. Their hashes and lines.

Others may have put links, pipes or folders where these files are to lie: none of them is followed or waited for.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from stages.errors import DataError, DuetError, OutputUnwritable

TEMPORARY_SUFFIX = ".partial"
# A disk, a quota or a file-size limit that is exhausted.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: bytes) -> None:
    """Put content at path so that a reader sees all of it or the old file, also after a power cut.

    Raises OutputUnwritable if a folder has that name.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with naming(path), open_new(temporary) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except IsADirectoryError as error:
        temporary.unlink()
        raise _is_folder(path) from error
    except BaseException:  # a signal, too: what is half-written takes room and helps nobody
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError from an open file the file's name, which the system does not know by then."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def append(path: Path, content: bytes) -> None:
    """Put content at the end of a file that is there, durably; what a fault leaves of it may be only its beginning."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with naming(path), os.fdopen(descriptor, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def open_new(path: Path) -> BinaryIO:
    """A new file of this name, for writing, in place of what an earlier attempt left there.

    Raises OutputUnwritable if a folder has that name.
    """
    remove_file(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def remove_file(path: Path) -> None:
    """Remove the file of this name, if there is one; of a link the link. Raises OutputUnwritable if it is a folder."""
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError) as error:  # POSIX lets a system report either for a folder
        if not path.is_dir():
            raise
        raise _is_folder(path) from error


def remove_tree(path: Path) -> None:
    """Remove what has this name: a file, a folder with all in it, or of a link the link. No failure is an error."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def open_plain(path: Path) -> BinaryIO:
    """A plain file of this name, for reading. Neither follows a link nor waits for the other end of a pipe.

    Raises OSError if it cannot be opened, DataError if it is anything but a plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A link, or a socket.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_plain(path, DataError) from error
        raise
    refuse_irregular(descriptor, path, DataError)
    return os.fdopen(descriptor, "rb")


def make_read_only(path: Path) -> None:
    """Let nobody write the file of this name. Raises as `open_plain` does: what a link leads to stays as it is."""
    with open_plain(path) as file:
        os.fchmod(file.fileno(), 0o444)


def refuse_irregular(descriptor: int, path: Path, kind: type[DuetError] = OutputUnwritable) -> None:
    """Raise `kind`, and close the descriptor, unless what was opened is a plain file. path: names it in the error."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path, kind)


def make_folder(folder: Path) -> None:
    """Make the folder, and those above it. Raises OutputUnwritable if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise OutputUnwritable(
            f"{folder} cannot be made ({error.strerror}).", "Nothing was run.", "Name another folder with --out."
        ) from error


def make_own_folder(folder: Path) -> None:
    """`make_folder` for a folder inside an output. Raises OutputUnwritable if a link has its name: it would lead elsewhere."""
    if folder.is_symlink():
        raise OutputUnwritable(
            f"{folder} is a link.", "A folder was to be made there, so nothing was written.", "Move it away."
        )
    make_folder(folder)


def _is_folder(path: Path) -> OutputUnwritable:
    return OutputUnwritable(f"{path} is a folder.", "A file was to lie there, so nothing was written.", "Move it away.")


def _not_plain(path: Path, kind: type[DuetError]) -> DuetError:
    return kind(f"{path} is not a plain file.", "A link, a pipe, a device or a folder is not opened.", "Move it away.")


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
