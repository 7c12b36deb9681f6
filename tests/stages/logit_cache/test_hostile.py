"""Caches made by somebody who means harm: whatever they hold, reading ends soon, with rows that hold or a CacheError."""

import copy
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, write_cache
from hostile import CORPUS, SECOND, overwrite, read_whole, vouch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stages.errors import CacheError
from stages.logit_cache.fingerprint import cache_id
from stages.logit_cache.manifest import MANIFEST, SHARDS, parse_manifest
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.transfer import pull

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../../etc/passwd", "/etc/passwd", "shard-00000.parquet\0", "shards/../x.parquet", "0" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# Far above what any refusal takes, and far below what the harm would.
MOST_SECONDS, MOST_MB = 5, 200
bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rows in three shards; read only."""
    folder = tmp_path_factory.mktemp("sound") / "cache"
    write_cache(folder)
    return folder


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


@bounded
@given(data=st.data())
def test_a_manifest_with_anything_in_any_place_is_the_same_or_refused(sound: Path, data: st.DataObject) -> None:
    raw = json.loads((sound / MANIFEST).read_bytes())
    place = data.draw(st.sampled_from(list(places(raw))))
    changed = put(raw, place, data.draw(anything))
    try:
        manifest = parse_manifest(json.dumps(changed).encode(), "manifest.json")
    except CacheError:
        return
    # What was accepted still names plain files, and still is one cache.
    assert manifest.cache_id == cache_id(manifest.fingerprint, [shard.sha256 for shard in manifest.shards])
    assert all("/" not in shard.name and "\0" not in shard.name for shard in manifest.shards)


@bounded
@given(content=st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"format": "duet-logit-cache", "format_version": 1e999}')
@example(b'{"format": "duet-logit-cache", "format_version": ' + b"9" * 5000 + b"}")
@example(b"\xff\xfe{}")
@example(b"NaN")
def test_bytes_that_are_no_manifest_are_refused(content: bytes) -> None:
    with pytest.raises(CacheError):
        parse_manifest(content, "manifest.json")


def with_shard(sound: Path, folder: Path, content: bytes) -> Path:
    """A copy of the cache whose second shard is `content`, and whose manifest vouches for it."""
    cache = folder / "hostile"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(sound, cache)
    overwrite(cache / SECOND, content)
    vouch(cache)
    return cache


def assert_rows_hold(cache: Path) -> None:
    """Read every row; each is inside its vocabulary and finite, or the cache is refused."""
    try:
        for row in LogitCache(cache).rows():
            assert np.isfinite(row.topk_logits).all()
            assert row.topk_ids.min() >= 0 and row.topk_ids.max() < 100
    except CacheError:
        pass


@bounded
@given(data=st.data())
def test_a_shard_with_any_bytes_altered_gives_rows_that_hold_or_is_refused(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray((sound / SHARDS / "shard-00001.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    assert_rows_hold(with_shard(sound, tmp_path, bytes(content)))


@bounded
@given(data=st.data())
def test_a_footer_with_any_bytes_altered_gives_rows_that_hold_or_is_refused(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """The footer says how much to read and to allocate: most of the harm that a file can do is done there."""
    content = bytearray((sound / SHARDS / "shard-00001.parquet").read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[len(content) - 8 - length + data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))

    assert_rows_hold(with_shard(sound, tmp_path, bytes(content)))


@pytest.mark.parametrize("name", CORPUS)
def test_every_cache_of_the_corpus_is_refused_soon_and_in_little_memory(sound: Path, tmp_path: Path, name: str) -> None:
    cache = tmp_path / "hostile"
    shutil.copytree(sound, cache)
    CORPUS[name](cache)
    before, began = peak_mb(), time.perf_counter()

    with pytest.raises(CacheError):
        read_whole(cache)

    assert time.perf_counter() - began < MOST_SECONDS
    assert peak_mb() - before < MOST_MB


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NaN", "row 3 .*not finite"),
        ("a negative candidate", "row 3 .*outside the vocabulary"),
        ("rows that repeat", "stands there more than once"),
        ("2^40 rows in the footer", r"holds 1099511627776 rows, the manifest says 8"),
        ("2^40 rows in the footer and in the manifest", "would unpack to 1,099,511,627,776 values"),
        ("a manifest of 1 GiB", "has 1,073,741,824 bytes"),
        ("a bomb of text", "would unpack to 524,288 values of query"),
        ("a bomb", "would unpack to 33,554,439 values of student_input_ids"),
        ("an extra file", r"run\.sh is no part of the cache"),
    ],
)
def test_the_refusal_says_what_is_wrong(sound: Path, tmp_path: Path, name: str, message: str) -> None:
    cache = tmp_path / "hostile"
    shutil.copytree(sound, cache)
    CORPUS[name](cache)

    with pytest.raises(CacheError, match=message):
        read_whole(cache)


# What a pull does not ask for, and where the links of a file system end, is the sender's own affair.
PULLED = [name for name in CORPUS if not name.startswith(("an extra", "a linked"))]


@pytest.mark.parametrize("name", PULLED)
def test_no_cache_of_the_corpus_is_pulled(sound: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sound, tmp_path / "hostile")
    CORPUS[name](tmp_path / "hostile")

    with pytest.raises(CacheError):
        pull((tmp_path / "hostile").as_uri(), tmp_path / "here")

    assert not (tmp_path / "here" / MANIFEST).exists()


def test_reading_a_cache_opens_no_connection_and_starts_no_process(sound: Path) -> None:
    code = """
import sys
from pathlib import Path
from stages.logit_cache.reader import LogitCache

seen = []
sys.addaudithook(lambda event, _: seen.append(event))
LogitCache(Path(sys.argv[1])).check_every_row()
forbidden = ("socket.", "subprocess.", "os.exec", "os.fork", "os.system", "pickle.")
found = sorted({each for each in seen if each.startswith(forbidden)})
assert "open" in seen and not found, found
"""
    subprocess.run([sys.executable, "-c", code, sound], cwd=ROOT, check=True)
