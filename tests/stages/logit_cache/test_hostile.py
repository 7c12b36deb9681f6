"""Caches made by somebody who means harm: whatever they hold, reading ends soon, with rows that hold or a CacheError."""

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_fingerprint, make_row, write_cache
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stages.errors import CacheError
from stages.logit_cache.fingerprint import Fingerprint, cache_id
from stages.logit_cache.manifest import MANIFEST, SHARDS, parse_manifest
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import rows_to_table

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
bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 rows in three shards; read only."""
    folder = tmp_path_factory.mktemp("sound") / "cache"
    write_cache(folder)
    return folder


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


def vouch(cache: Path) -> None:
    """Make the manifest agree with the bytes of the shards as they now are."""
    raw = json.loads((cache / MANIFEST).read_bytes())
    for shard in raw["shards"]:
        content = (cache / SHARDS / shard["name"]).read_bytes()
        shard.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    fingerprint = Fingerprint.model_validate(raw["fingerprint"])
    raw["cache_id"] = cache_id(fingerprint, [shard["sha256"] for shard in raw["shards"]])
    (cache / MANIFEST).unlink()
    (cache / MANIFEST).write_text(json.dumps(raw))


def with_shard(sound: Path, folder: Path, content: bytes) -> Path:
    """A copy of the cache whose second shard is `content`, and whose manifest vouches for it."""
    cache = folder / "hostile"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(sound, cache)
    path = cache / SHARDS / "shard-00001.parquet"
    path.unlink()
    path.write_bytes(content)
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


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("topk_logits", float("nan"), "not finite"),
        ("topk_logits", float("inf"), "not finite"),
        ("topk_ids", 100, "outside the vocabulary"),
        ("topk_ids", -1, "outside the vocabulary"),
        ("response_ids", 2**31 - 1, "outside the vocabulary"),
        ("student_input_ids", -5, "outside the vocabulary"),
        ("student_positions", 99, "do not follow"),
    ],
)
def test_one_wrong_value_is_refused_with_its_row(
    sound: Path, tmp_path: Path, column: str, value: float, message: str
) -> None:
    fingerprint = make_fingerprint()
    rows = [make_row(index, fingerprint) for index in range(8, 16)]
    getattr(rows[3], column).reshape(-1)[0] = value
    pq.write_table(rows_to_table(rows, 4), tmp_path / "wrong.parquet")

    with pytest.raises(CacheError, match=rf"row 3 \(example {rows[3].example_id}\).*{message}"):
        list(LogitCache(with_shard(sound, tmp_path, (tmp_path / "wrong.parquet").read_bytes())).rows())


def test_a_bomb_is_refused_before_it_unfolds(sound: Path, tmp_path: Path) -> None:
    """A few kilobytes that unpack to a hundred thousand times as many: one row of 2^25 equal tokens."""
    fingerprint = make_fingerprint()
    table = rows_to_table([make_row(index, fingerprint) for index in range(8, 16)], 4)
    lengths = np.zeros(9, dtype=np.int32)
    lengths[1:] = 2**25
    tokens = pa.ListArray.from_arrays(pa.array(lengths), pa.array(np.zeros(2**25, dtype=np.int32)))
    column = table.schema.get_field_index("student_input_ids")
    bomb = table.set_column(column, table.schema.field(column), tokens.cast(table.schema.field(column).type))
    pq.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd")
    content = (tmp_path / "bomb.parquet").read_bytes()
    assert len(content) < 2**20

    with pytest.raises(CacheError, match="unpack"):
        list(LogitCache(with_shard(sound, tmp_path, content)).rows())
