"""What is read of a cache is what was hashed when it was opened, whatever happens to the files in between."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import assert_same_row, make_fingerprint, make_row, write_cache

from stages.errors import CacheError
from stages.logit_cache import reader
from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.pinned_file import BLOCK_BYTES, PinnedFile
from stages.logit_cache.reader import LogitCache

Change = Callable[[Path, bytes], None]


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
