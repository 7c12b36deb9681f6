"""Whatever a footer or a manifest claims is counted, in every way of reading."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_fingerprint, make_provenance, make_row, write_cache
from hostile import SECOND, manifest, overwrite, put_table, vouch

from stages.errors import CacheError
from stages.logit_cache.manifest import MANIFEST, SHARDS, Prefix
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row, row_schema, rows_to_table
from stages.logit_cache.slicing import slice_cache
from stages.logit_cache.stripping import strip_text
from stages.logit_cache.verification import verify
from stages.logit_cache.writer import CacheWriter

NAMES = row_schema(4).names
# In Thrift's compact form: a column's codec, ZSTD, and then, as its next field, the number of its values.
BEFORE_NUM_VALUES = b"\x15\x0c\x16"
OPTIONS: dict[str, Any] = {"command": ["test"], "duet_version": "0"}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """20 rows in shards of 8, 8 and 4."""
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


def claim_values(cache: Path, column: int, count: int) -> None:
    """The footer of the second shard says that a column has `count` values, and the manifest vouches for it."""
    content = bytearray((cache / SECOND).read_bytes())
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for _ in range(column + 1):
        at = content.index(BEFORE_NUM_VALUES, at) + len(BEFORE_NUM_VALUES)
    width = 1 if content[at] < 128 else 2
    content[at : at + width] = (2 * count).to_bytes(1, "little") if width == 1 else bytes([128 | (2 * count), 0])
    overwrite(cache / SECOND, bytes(content))
    assert pq.read_metadata(cache / SECOND).row_group(0).column(column).num_values == count
    vouch(cache)


WAYS: dict[str, Callable[[LogitCache, Path], object]] = {
    "rows": lambda opened, out: list(opened.rows()),
    "tables": lambda opened, out: list(opened.tables()),
    "a row": lambda opened, out: opened.row(15),
    "the outline": lambda opened, out: opened.outline(),
    "a frame": lambda opened, out: opened.frame(),
    "a look at every row": lambda opened, out: opened.check_every_row(),
    "a slice": lambda opened, out: slice_cache(opened, out, top_k=2, positions=1, **OPTIONS),
    "a merge": lambda opened, out: merge_caches([opened], out, **OPTIONS),
    "no text": strip_text,
}


@pytest.mark.parametrize("column", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("count", [0, 7])
def test_a_column_that_claims_fewer_values_than_its_rows_hold_is_refused(
    cache: Path, tmp_path: Path, column: int, count: int
) -> None:
    claim_values(cache, column, count)

    for way in WAYS.values():
        with pytest.raises(CacheError, match=r"shard-00001\.parquet"):
            way(LogitCache(cache), tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert [fault.shard for fault in verify(cache).faults] == ["shard-00001.parquet"]


def test_positions_that_the_manifest_gives_to_another_shard_are_refused_when_it_is_opened(cache: Path) -> None:
    def move(raw: dict[str, Any]) -> None:
        raw["shards"][0]["positions"] += 1
        raw["shards"][1]["positions"] -= 1

    manifest(move, rehashed=True)(cache)
    # make_row: 1 + index % 3 positions, so rows 0 to 7 have 1 2 3 1 2 3 1 2.
    with pytest.raises(CacheError, match="holds 15 positions, the manifest says 16"):
        LogitCache(cache)


@pytest.mark.parametrize("key", ["fingerprint_sha256", "first_row", "rows"])
def test_a_footer_that_names_another_capture_or_place_is_refused_when_it_is_opened(cache: Path, key: str) -> None:
    table = pq.read_table(cache / SECOND)
    footer = {**pq.read_metadata(cache / SECOND).metadata, f"duet.{key}".encode(): b"9"}
    (cache / SECOND).unlink()
    pq.write_table(table.replace_schema_metadata(footer), cache / SECOND)
    vouch(cache)

    with pytest.raises(CacheError, match=r"another capture|wrong place|not whole"):
        LogitCache(cache)


@pytest.mark.parametrize("splits", [{"forget": 8, "retain": 12}, {"forget": 20}, {"forget": 0, "retain": 20}])
def test_splits_that_are_not_those_of_the_rows_are_refused_when_a_cache_is_opened(
    cache: Path, splits: dict[str, int]
) -> None:
    manifest(lambda raw: raw.update(splits=splits), rehashed=True)(cache)

    with pytest.raises(CacheError, match="holds 7 forget, 13 retain rows, the manifest says"):
        LogitCache(cache)
    assert any("7 forget, 13 retain" in fault.message for fault in verify(cache).faults)


def test_a_negative_number_of_rows_is_refused(cache: Path) -> None:
    manifest(lambda raw: raw.update(splits={"forget": -1, "retain": 21}), rehashed=True)(cache)
    with pytest.raises(CacheError, match=r"malformed at splits\.forget"):
        LogitCache(cache)


@pytest.mark.parametrize("field", ["logit_min", "logit_max"])
def test_other_extremes_than_the_manifest_says_are_refused_before_training(cache: Path, field: str) -> None:
    manifest(lambda raw: raw["shards"][1].update({field: 1.0}), rehashed=True)(cache)
    with pytest.raises(CacheError, match=r"shard-00001\.parquet has other extremes"):
        LogitCache(cache).check_every_row()


@pytest.mark.parametrize("version", [99, 0, -1, True, 2.0, "2", 10**30])
def test_a_format_version_that_is_none_is_refused(cache: Path, version: object) -> None:
    raw = json.loads((cache / MANIFEST).read_bytes())
    for holder in (raw, raw["fingerprint"]):
        before, holder["format_version"] = holder["format_version"], version
        overwrite(cache / MANIFEST, json.dumps(raw).encode())
        with pytest.raises(CacheError, match=r"format.version|digits"):
            LogitCache(cache)
        holder["format_version"] = before


def test_a_fingerprint_of_a_newer_version_than_its_manifest_is_refused(cache: Path) -> None:
    manifest(lambda raw: raw.update(format_version=1), rehashed=True)(cache)
    with pytest.raises(CacheError, match="newer format version than itself"):
        LogitCache(cache)


@pytest.mark.parametrize("place", ["model", "command", "prefix", "teacher_sha256", "licence"])
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(cache: Path, place: str) -> None:
    raw = json.loads((cache / MANIFEST).read_bytes())
    half = "\ud800"
    if place == "licence":
        raw["licence"] = half
    elif place == "prefix":
        raw["prefix"]["text"] = half
    elif place == "teacher_sha256":
        raw["fingerprint"]["teacher_sha256"] = half
    else:
        raw["provenance"][place] = [half] if place == "command" else half
    overwrite(cache / MANIFEST, json.dumps(raw).encode())

    with pytest.raises(CacheError, match="half of a surrogate pair"):
        LogitCache(cache)


def with_row(cache: Path, change: Callable[[Row], Row]) -> None:
    """The fourth row of the second shard, changed; the manifest vouches for it."""
    rows = [make_row(index, make_fingerprint()) for index in range(8, 16)]
    rows[3] = change(rows[3])
    put_table(cache, rows_to_table(rows, 4))


def test_an_example_id_that_is_no_hash_of_its_query_is_refused_before_training(cache: Path) -> None:
    with_row(cache, lambda row: replace(row, example_id="0" * 32))
    with pytest.raises(CacheError, match=r"row 3 .*not the hash of its query"):
        LogitCache(cache).check_every_row()
    assert any("not the hash of its query" in fault.message for fault in verify(cache).faults)


def test_rows_without_text_keep_their_example_ids(cache: Path) -> None:
    with_row(cache, lambda row: replace(row, query=""))
    LogitCache(cache).check_every_row()


def test_row_groups_of_one_row_are_read_like_any(tmp_path: Path) -> None:
    # 2^17 candidates fill a row group: at K = 2^17 it is one row.
    top_k = 2**17
    fingerprint = make_fingerprint(3, top_k=top_k, positions=1, vocab_size=top_k)
    with CacheWriter(tmp_path / "cache", Plan(fingerprint=fingerprint, rows=3, shard_rows=3)) as writer:
        falling = (np.arange(top_k, 0, -1, dtype=np.float32) / 16)[None]
        written = [replace(make_row(row, fingerprint), topk_logits=falling) for row in range(3)]
        writer.write(0, written)
        writer.publish(Prefix(text="", token_ids=[]), make_provenance(3), None, None)
    assert pq.read_metadata(tmp_path / "cache" / SHARDS / "shard-00000.parquet").num_row_groups == 3

    opened = LogitCache(tmp_path / "cache")
    opened.check_every_row()
    for index in (2, 0, 1):
        assert opened.row(index).topk_ids.tolist() == written[index].topk_ids.tolist()
    assert verify(tmp_path / "cache").faults == []
