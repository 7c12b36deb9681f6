"""What is read of a cache is what was hashed when it was opened, whatever happens to the files in between."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import assert_same_row, make_fingerprint, make_row, write_cache

from stages.errors import CacheError
from stages.logit_cache import reader
from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.pinned_file import BLOCK_BYTES, Pin, PinnedFile
from stages.logit_cache.reader import LogitCache

Change = Callable[[Path, bytes], None]
# A plain file, of no bytes as it seems, of which no byte can be read.
UNREADABLE = Path("/proc/self/mem")
BYTES_OF_3_BLOCKS = 2 * BLOCK_BYTES + 7


def exchanged(path: Path, content: bytes) -> None:
    """Another file under the same name, with the old one's times."""
    other, before = path.with_name("other"), path.stat()
    other.write_bytes(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)


def rewritten(path: Path, content: bytes) -> None:
    """The same file with other bytes, and with its old times."""
    before = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_bytes(cache: Path) -> bytes:
    """The second shard with one bit flipped among its columns."""
    content = bytearray((cache / SHARDS / "shard-00001.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    return bytes(content)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """20 rows in shards of 8, 8 and 4."""
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


USES: dict[str, Callable[[LogitCache], object]] = {
    "a row": lambda opened: opened.row(9),
    "all rows": lambda opened: list(opened.rows()),
    "the outline": lambda opened: opened.outline(),
    "a frame": lambda opened: opened.frame(["topk_ids"]),
    "a look at every row": lambda opened: opened.check_every_row(),
}


@pytest.mark.parametrize("change", [exchanged, rewritten])
@pytest.mark.parametrize("use", USES)
def test_a_shard_that_is_changed_after_opening_is_not_read(cache: Path, use: str, change: Change) -> None:
    opened = LogitCache(cache)
    change(cache / SHARDS / "shard-00001.parquet", other_bytes(cache))

    with pytest.raises(CacheError, match=r"shard-00001\.parquet has been changed since it was opened"):
        USES[use](opened)


def test_a_shard_that_is_changed_between_two_reads_is_not_read_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "KEPT_ROW_GROUPS", 1)
    opened = LogitCache(cache)
    for index in (9, 1):  # the second lets the first one's rows go
        assert_same_row(opened.row(index), make_row(index, make_fingerprint()))
    rewritten(cache / SHARDS / "shard-00001.parquet", other_bytes(cache))

    with pytest.raises(CacheError, match="changed since it was opened"):
        opened.row(9)
    assert_same_row(opened.row(1), make_row(1, make_fingerprint()))


def test_a_file_that_is_exchanged_while_it_is_open_goes_on_as_it_was(cache: Path) -> None:
    opened = LogitCache(cache)
    opened.row(9)
    exchanged(cache / SHARDS / "shard-00001.parquet", other_bytes(cache))

    assert_same_row(opened.row(10), make_row(10, make_fingerprint()))


@pytest.mark.parametrize("change", [exchanged, rewritten])
def test_a_shard_that_is_cut_short_after_opening_is_not_read(cache: Path, change: Change) -> None:
    path = cache / SHARDS / "shard-00001.parquet"
    opened = LogitCache(cache)
    change(path, path.read_bytes()[:100])

    with pytest.raises(CacheError, match=r"shard-00001\.parquet"):
        opened.row(9)


def test_a_cache_of_more_shards_than_a_process_may_have_files_is_read(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "KEPT_FILES", 1)
    monkeypatch.setattr(reader, "KEPT_ROW_GROUPS", 1)
    opened = LogitCache(cache)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for index in (0, 19, 9, 1, 18, 8):
        assert_same_row(opened.row(index), make_row(index, make_fingerprint()))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
def test_any_part_of_a_file_is_read_as_it_lies_there(tmp_path: Path, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    (tmp_path / "file").write_bytes(content)

    with PinnedFile(tmp_path / "file") as file:
        for start in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES - 3, size):
            for length in (0, 1, 10, BLOCK_BYTES, 2 * BLOCK_BYTES, -1):
                file.seek(start)
                expected = content[start:] if length < 0 else content[start : start + length]
                assert file.read(length) == expected, (start, length)
        file.seek(-1, os.SEEK_END) if size else None
        assert file.read() == content[-1:]


@pytest.mark.parametrize("place", [0, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 5])
def test_one_changed_byte_spoils_its_block_and_no_other(tmp_path: Path, place: int) -> None:
    content = bytearray(os.urandom(2 * BLOCK_BYTES + 6))
    (tmp_path / "file").write_bytes(content)
    with PinnedFile(tmp_path / "file") as file:
        pin = file.pin
    content[place] ^= 1
    (tmp_path / "file").write_bytes(content)

    with PinnedFile(tmp_path / "file", pin) as file:
        for block in range(3):
            file.seek(block * BLOCK_BYTES)
            if block == place // BLOCK_BYTES:
                with pytest.raises(CacheError, match="changed since it was opened"):
                    file.read(1)
            else:
                assert file.read(1) == content[block * BLOCK_BYTES :][:1]


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """A file of two blocks and seven bytes."""
    (tmp_path / "file").write_bytes(bytes(index % 251 for index in range(BYTES_OF_3_BLOCKS)))
    return tmp_path / "file"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(first byte, number of bytes) of what is read behind the pass that hashes, as it happens."""
    found: list[tuple[int, int]] = []
    pread = os.pread

    def noted(descriptor: int, size: int, start: int) -> bytes:
        found.append((start, size))
        return pread(descriptor, size, start)

    monkeypatch.setattr(os, "pread", noted)
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_pin_holds_the_size_the_sha_256_and_16_bytes_for_each_64_kib(blocks: Path) -> None:
    content = blocks.read_bytes()
    parts = (content[:65536], content[65536:131072], content[131072:])

    with PinnedFile(blocks) as file:
        assert file.pin.size_bytes == 131079
        assert file.pin.sha256 == hashlib.sha256(content).hexdigest()
        assert file.pin.digests == b"".join(hashlib.sha256(part).digest()[:16] for part in parts)


def test_it_is_read_as_any_open_file(blocks: Path) -> None:
    content = blocks.read_bytes()
    with PinnedFile(blocks) as file:
        assert file.readable()
        assert file.seekable()
        assert (file.path, file.tell()) == (blocks, 0)
        assert file.read(3) == content[:3]
        assert file.tell() == 3
        assert file.seek(2, os.SEEK_CUR) == 5
        assert file.read(1) == content[5:6]
        assert file.seek(-100, os.SEEK_CUR) == 0
        assert file.read(None) == content
        assert file.seek(0) == 0
        assert file.readall() == content
        assert file.seek(-3, os.SEEK_END) == len(content) - 3
        buffer = bytearray(5)
        assert file.readinto(buffer) == 3
        assert buffer == content[-3:] + b"\0\0"
        # Behind the end there is nothing, and the place stays.
        assert file.seek(9, os.SEEK_CUR) == len(content) + 9
        assert file.read(4) == b""
        assert file.tell() == len(content) + 9
        assert file.readinto(buffer) == 0


def test_whole_blocks_are_read_and_each_but_once_in_a_row(blocks: Path, reads: list[tuple[int, int]]) -> None:
    with PinnedFile(blocks) as file:
        for _ in range(3):
            file.read(1)
        file.read(BLOCK_BYTES - 3)
        file.seek(0)
        file.read(BLOCK_BYTES)
        assert reads == [(0, BLOCK_BYTES)]
        file.read(1)
        assert reads[1:] == [(BLOCK_BYTES, BLOCK_BYTES)]
        file.seek(-1, os.SEEK_END)
        file.read(10)
        assert reads[2:] == [(2 * BLOCK_BYTES, 7)]
        file.seek(0)
        assert file.read(0) == b""
        file.seek(BYTES_OF_3_BLOCKS)
        assert file.read() == b""
        assert len(reads) == 3


@pytest.mark.parametrize(
    ("start", "end", "read"),
    [
        (0, 1, (0, BLOCK_BYTES)),
        (-5, 10, (0, BLOCK_BYTES)),
        (1, BLOCK_BYTES, (0, BLOCK_BYTES)),
        (BLOCK_BYTES - 1, BLOCK_BYTES + 1, (0, 2 * BLOCK_BYTES)),
        (BLOCK_BYTES, 10**9, (BLOCK_BYTES, BLOCK_BYTES + 7)),
    ],
)
def test_what_is_loaded_is_read_in_one_go_and_kept_until_it_is_let_go(
    blocks: Path, reads: list[tuple[int, int]], start: int, end: int, read: tuple[int, int]
) -> None:
    content, start_of_block, size = blocks.read_bytes(), *read
    with PinnedFile(blocks) as file:
        file.load(start, end)
        for place in range(start_of_block, start_of_block + size, 10_000):
            file.seek(place)
            assert file.read(1) == content[place : place + 1]
        assert reads == [read]

        file.let_go()
        file.seek(start_of_block)
        assert file.read(1) == content[start_of_block : start_of_block + 1]
        assert reads == [read, (start_of_block, BLOCK_BYTES)]


def test_a_file_that_is_closed_is_given_back_and_may_be_closed_again(blocks: Path) -> None:
    before = open_files()
    file = PinnedFile(blocks)
    assert open_files() == before + 1

    file.close()
    file.close()

    assert file.closed
    assert open_files() == before


def test_a_file_of_another_size_than_promised_is_given_back_unread(blocks: Path, reads: list[tuple[int, int]]) -> None:
    before = open_files()
    with pytest.raises(CacheError, match=r"file has 131,079 bytes, the manifest says 131,080\.") as caught:
        PinnedFile(blocks, promised_bytes=131_080)
    assert open_files() == before, caught
    with PinnedFile(blocks, promised_bytes=131_079) as file:
        assert file.read(1) == b"\0"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (Path("/proc/self"), "/proc/self is missing, or not a plain file"),
        (Path("/proc/none"), "/proc/none is missing, or not a plain file"),
        (Path("/" + "a" * 300), r"a cannot be read \(File name too long\)"),
        (UNREADABLE, r"/proc/self/mem cannot be read \(Input/output error\)"),
    ],
)
def test_what_cannot_be_opened_or_read_is_a_cache_error(path: Path, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        PinnedFile(path)
    # What never was opened can be closed all the same, as Python does once nobody holds it.
    PinnedFile.__new__(PinnedFile).close()


def test_what_can_no_longer_be_read_is_a_cache_error() -> None:
    with (
        PinnedFile(UNREADABLE, Pin(10, "0" * 64, b"\0" * 16)) as file,
        pytest.raises(CacheError, match=r"mem cannot be read \(Input/output error\)"),
    ):
        file.read(1)
