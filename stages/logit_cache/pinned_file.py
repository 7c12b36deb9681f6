"""A shard's file in, its bytes out, and only those that were hashed when it was opened.

A hash that was checked once says nothing of what is read later: the file may have been exchanged or rewritten since. So
each block that is read is compared with what it was in the one pass which found the file's SHA-256.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import CacheError, DataError
from stages.files import open_plain

# Small enough that a row group's ends cost little, large enough that their digests are a 4000th of the file.
BLOCK_BYTES = 2**16
DIGEST_BYTES = 16
PIECE_BLOCKS = 16


@dataclass(frozen=True)
class Pin:
    """What holds a file to its bytes. sha256: of all of them. digests: DIGEST_BYTES for each of its blocks, in order."""

    size_bytes: int
    sha256: str
    digests: bytes


class PinnedFile(io.RawIOBase):
    """The file at `path`, opened for reading; every block of it must be the pinned one.

    pin: from an earlier opening; without it, the file is read once from end to end, and `pin` is what was found.
    promised_bytes: its size, looked at before anything is read.
    Raises CacheError, here and from `read`, if it is no plain file, cannot be read, or is not what was pinned.
    """

    def __init__(self, path: Path, pin: Pin | None = None, *, promised_bytes: int | None = None) -> None:
        self.path = path
        self._at = self._start = 0
        self._span = b""  # verified bytes from _start on
        try:
            self._file = open_plain(path)
        except (FileNotFoundError, DataError) as error:
            raise damage(path, "is missing, or not a plain file") from error
        except OSError as error:
            raise damage(path, f"cannot be read ({error.strerror})") from error
        size = os.fstat(self._file.fileno()).st_size
        if promised_bytes not in (None, size):
            self.close()
            raise damage(path, f"has {size:,} bytes, the manifest says {promised_bytes:,}")
        try:
            self.pin = pin or self._pinned()
        except BaseException:
            self.close()
            raise

    def load(self, start: int, end: int) -> None:
        """Read and verify these bytes at once: they are about to be read piece by piece."""
        self._start = max(start, 0) // BLOCK_BYTES * BLOCK_BYTES
        self._span = self._verified(self._start, min(end, self.pin.size_bytes))

    def let_go(self) -> None:
        """Forget what `load` keeps in memory."""
        self._span = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.pin.size_bytes}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        end = self.pin.size_bytes if size is None or size < 0 else min(self._at + size, self.pin.size_bytes)
        if end <= self._at:
            return b""
        if not self._start <= self._at <= end <= self._start + len(self._span):
            self.load(self._at, end)
        content = self._span[self._at - self._start : end - self._start]
        self._at = end
        return content

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self.let_go()
            if hasattr(self, "_file"):
                self._file.close()
        super().close()

    def _verified(self, start: int, end: int) -> bytes:
        """The bytes from a block's start on, at least to `end`."""
        end = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self.pin.size_bytes)
        try:
            content = os.pread(self._file.fileno(), end - start, start)
        except OSError as error:
            raise damage(self.path, f"cannot be read ({error.strerror})") from error
        if _digests(content) != self.pin.digests[_place(start) : _place(end + BLOCK_BYTES - 1)]:
            raise damage(self.path, "has been changed since it was opened")
        return content

    def _pinned(self) -> Pin:
        whole, digests, size = hashlib.sha256(), bytearray(), 0
        try:
            while piece := self._file.read(PIECE_BLOCKS * BLOCK_BYTES):
                whole.update(piece)
                digests += _digests(piece)
                size += len(piece)
        except OSError as error:
            raise damage(self.path, f"cannot be read ({error.strerror})") from error
        return Pin(size, whole.hexdigest(), bytes(digests))


def damage(path: Path | str, what: str) -> CacheError:
    """The error over a file that is not what the manifest promises."""
    return CacheError(
        f"{path} {what}.",
        "The cache is not what was captured, so nothing was read from it.",
        "Fetch it again from where it came, or capture it anew into another folder.",
    )


def _digests(content: bytes) -> bytes:
    blocks = memoryview(content)
    return b"".join(
        hashlib.sha256(blocks[start : start + BLOCK_BYTES]).digest()[:DIGEST_BYTES]
        for start in range(0, len(content), BLOCK_BYTES)
    )


def _place(at: int) -> int:
    return at // BLOCK_BYTES * DIGEST_BYTES
