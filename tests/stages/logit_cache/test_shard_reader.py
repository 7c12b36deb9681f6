"""Whatever a footer or a manifest claims is counted, in every way of reading."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_fingerprint, make_provenance, make_row, write_cache
from hostile import SECOND, manifest, overwrite, put_table, second_table, vouch

from stages.errors import CacheError
from stages.logit_cache.manifest import MANIFEST, SHARDS, Manifest, Prefix, Shard, read_manifest
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row, row_schema, rows_to_table
from stages.logit_cache.shard_reader import Promise, Sums, count_splits, footer_fault, open_shard, splits_fault
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
    with pytest.raises(CacheError, match=r"cache, row group 1, row 3 .*not the hash of its query"):
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


def candidates(*rows: tuple[str, list[list[float]]]) -> pa.Table:
    """Rows of a split, and of the logits of as many candidates at each position."""
    top_k = len(rows[0][1][0])
    row, made = make_row(0, make_fingerprint()), []
    for split, logits in rows:
        ids_TK = np.array([range(top_k)] * len(logits), dtype=np.int32)
        positions_T = np.arange(len(logits), dtype=np.int32)
        made.append(
            replace(row, split=split, response_ids=ids_TK[:, 0], student_positions=positions_T, topk_ids=ids_TK,
                    topk_logits=np.array(logits, dtype=np.float32))
        )  # fmt: skip
    return rows_to_table(made, top_k)


def test_sums_are_those_of_all_rows_that_were_added() -> None:
    sums = Sums()
    sums.add(candidates(("forget", [[3, -1]]), ("retain", [[5, 0], [2, -7]])), with_mean=True)
    assert (sums.positions, sums.logit_min, sums.logit_max, sums.logit_sum) == (3, -7, 5, 2)
    sums.add(candidates(("forget", [[4, 1]]), ("forget", [[6, -2]])), with_mean=True)

    assert (sums.positions, sums.logit_min, sums.logit_max, sums.logit_sum) == (5, -7, 6, 11)
    assert sums.splits == {"forget": 3, "retain": 1}
    assert sums.mean(top_k=2) == 1.1


def test_sums_without_mean_count_the_same_but_for_it() -> None:
    sums = Sums()
    sums.add(candidates(("retain", [[5, 1, -7], [4, 2, -3]])), with_mean=False)

    assert (sums.positions, sums.logit_min, sums.logit_max, sums.splits) == (2, -7, 5, {"retain": 1})
    assert sums.logit_sum == 0


# One position of 1.5 and -0.5: the mean is 0.5.
@pytest.mark.parametrize(
    ("said", "differs", "mean_differs"),
    [
        ((-0.5, 1.5, 0.5), False, False),
        ((-0.5, 1.5, 0.50009), False, False),
        ((-0.5, 1.5, 0.49991), False, False),
        ((-0.5, 1.5, 0.50011), False, True),
        ((-0.5, 1.5, 0.49989), False, True),
        ((-0.5, 1.5, -0.5), False, True),
        ((-0.4, 1.5, 0.5), True, True),
        ((-0.5, 1.6, 0.5), True, True),
    ],
)
def test_extremes_are_compared_exactly_and_the_mean_to_a_ten_thousandth(
    said: tuple[float, float, float], differs: bool, mean_differs: bool
) -> None:
    sums = Sums(positions=1, logit_sum=1.0, logit_min=-0.5, logit_max=1.5)
    shard = Shard(
        name="shard-00000.parquet", first_row=0, rows=1, positions=1, bytes=1, sha256="0" * 64,
        logit_min=said[0], logit_max=said[1], logit_mean=said[2],
    )  # fmt: skip
    fault = "has other extremes or another mean than the manifest says"

    assert sums.fault(shard) == (fault if differs else None)
    assert sums.fault(shard, top_k=2) == (fault if mean_differs else None)


def test_splits_are_counted_over_all_chunks() -> None:
    counts = {"forget": 1}
    count_splits(counts, pa.chunked_array([["retain", "forget"], ["retain"]]))
    assert counts == {"forget": 2, "retain": 2}


def test_a_split_of_no_rows_may_be_named_or_not(cache: Path) -> None:
    def manifest(splits: dict[str, int]) -> Manifest:
        return read_manifest(cache).model_copy(update={"splits": splits})

    for splits in ({"retain": 20}, {"forget": 0, "retain": 20}):
        assert splits_fault(manifest(splits), {"retain": 20}) is None
    assert (
        splits_fault(manifest({"retain": 19, "forget": 1}), {"retain": 20})
        == "holds 20 retain rows, the manifest says 1 forget, 19 retain"
    )


def test_a_footer_names_capture_first_row_and_rows() -> None:
    promise = Promise("shard-00001.parquet", make_fingerprint(), "ab", first_row=8, rows=4)
    sound = {b"duet.fingerprint_sha256": b"ab", b"duet.first_row": b"8", b"duet.rows": b"4"}

    assert footer_fault(sound, promise) is None
    # Early caches do not say how many rows.
    assert footer_fault({key: sound[key] for key in (b"duet.fingerprint_sha256", b"duet.first_row")}, promise) is None
    for key, fault in {
        b"duet.fingerprint_sha256": "belongs to another capture: its footer has another fingerprint",
        b"duet.first_row": "stands in the wrong place: its footer does not say row 8",
        b"duet.rows": "is not whole: its footer does not say 4 rows",
    }.items():
        assert footer_fault(sound | {key: b"5"}, promise) == fault


def another_split(cache: Path) -> None:
    table = second_table()
    at = table.schema.get_field_index("split")
    splits = pa.array(["retain"] * 5 + ["kept"] + ["retain"] * 2)
    put_table(cache, table.set_column(at, table.schema.field(at), splits), row_group_size=4)


def text_that_is_no_utf_8(cache: Path) -> None:
    table = second_table()
    at = table.schema.get_field_index("query")
    lengths = pa.py_buffer(np.arange(9, dtype=np.int32))
    text = pa.Array.from_buffers(pa.string(), 8, [None, lengths, pa.py_buffer(b"abcde\xffgh")])
    put_table(cache, table.set_column(at, table.schema.field(at), text), row_group_size=4)


def ids_out_of_order(cache: Path) -> None:
    rows = [make_row(index, make_fingerprint()) for index in range(8, 16)]
    rows[5].topk_logits[0] = rows[5].topk_logits[0, ::-1].copy()
    put_table(cache, rows_to_table(rows, 4), row_group_size=4)


def pages_of_nothing(cache: Path) -> None:
    put_table(cache, second_table(), row_group_size=4)
    content = bytearray((cache / SECOND).read_bytes())
    at = pq.read_metadata(cache / SECOND).row_group(1).column(7).data_page_offset
    content[at : at + 8] = bytes(8)
    overwrite(cache / SECOND, bytes(content))
    vouch(cache)


def more_positions_than_rows_have(cache: Path) -> None:
    # Rows 3, 7, 11 and 15 have four positions each, where three are the most.
    fingerprint = make_fingerprint(positions=4)
    rows = [make_row(index, fingerprint) for index in (8, 9, 10, 12, 3, 7, 11, 15)]
    put_table(cache, rows_to_table(rows, 4), row_group_size=4)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (another_split, r"row group 1, row 1: its split is none of"),
        (text_that_is_no_utf_8, r"row group 1 cannot be read: "),
        (ids_out_of_order, r"row group 1, row 1 .*: its candidates are not sorted"),
        (pages_of_nothing, r"row group 1 cannot be read: "),
        (more_positions_than_rows_have, r"row group 1 would unpack to 16 values of response_ids"),
    ],
)
def test_a_fault_is_told_with_the_row_group_in_which_it_lies(
    cache: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(cache)
    with pytest.raises(CacheError, match=r"^shard-00001\.parquet, " + message):
        list(LogitCache(cache).rows())


def test_an_empty_row_group_is_refused(cache: Path) -> None:
    footer = {key: text for key, text in pq.read_metadata(cache / SECOND).metadata.items() if key.startswith(b"duet.")}
    table = second_table().replace_schema_metadata(footer)
    (cache / SECOND).unlink()
    with pq.ParquetWriter(cache / SECOND, table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table.slice(0, 0))
    assert pq.read_metadata(cache / SECOND).num_row_groups == 2
    vouch(cache)
    with pytest.raises(CacheError, match=r"shard-00001\.parquet"):
        LogitCache(cache)


def test_a_row_group_is_read_in_one_go_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 8 rows of 15 positions of 4096 candidates in all, more than a block of 64 KiB.
    fingerprint = make_fingerprint(rows=8, top_k=4096, vocab_size=5000)
    falling_K = np.arange(4096, 0, -1, dtype=np.float32) / 16
    rows = [make_row(index, fingerprint) for index in range(8)]
    with CacheWriter(tmp_path / "cache", Plan(fingerprint=fingerprint, rows=8, shard_rows=8)) as writer:
        writer.write(0, [replace(row, topk_logits=np.tile(falling_K, (len(row.response_ids), 1))) for row in rows])
        writer.publish(Prefix(text="", token_ids=[]), make_provenance(8), None, None)
    manifest, reads, pread = read_manifest(tmp_path / "cache"), [], os.pread
    with open_shard(tmp_path / "cache", manifest, manifest.shards[0]) as reader:
        monkeypatch.setattr(os, "pread", lambda *arguments: reads.append(arguments) or pread(*arguments))
        for _ in range(2):
            assert reader.group(0).num_rows == 8
        # From the file's beginning on, in whole blocks; the footer's last bytes need not be among them.
        assert [(start, size > 2**16) for _, size, start in reads] == [(0, True)] * 2
        reader.columns(["query"])
        assert len(reads) > 2


def test_a_shard_is_given_back_when_it_is_closed_or_refused(cache: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    manifest, before = read_manifest(cache), open_files()
    with open_shard(cache, manifest, manifest.shards[1]) as reader:
        assert open_files() > before
    assert open_files() == before, reader

    with pytest.raises(CacheError, match="another SHA-256") as altered:
        open_shard(cache, manifest, manifest.shards[1].model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(CacheError, match="holds 8 rows, the manifest says 7") as short:
        open_shard(cache, manifest, manifest.shards[1].model_copy(update={"rows": 7}))
    assert open_files() == before, (altered, short)


def test_a_folder_of_shards_that_is_a_link_is_named_with_its_shard(cache: Path) -> None:
    found = read_manifest(cache)
    (cache / SHARDS).rename(cache.with_name("elsewhere"))
    (cache / SHARDS).symlink_to(cache.with_name("elsewhere"))

    with pytest.raises(CacheError) as caught:
        open_shard(cache, found, found.shards[0])
    assert caught.value.found == f"{cache / SHARDS / found.shards[0].name} is missing, or not a plain file."
