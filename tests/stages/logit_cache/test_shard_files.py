"""How a shard lies in Parquet, and what its footer and its description say of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from captures import make_plan, rows_of
from conftest import assert_same_row, make_fingerprint, make_row, write_cache

from stages.logit_cache import shard_files
from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.shard_files import FINGERPRINT_KEY, FIRST_ROW_KEY, ROWS_KEY
from stages.logit_cache.writer import CacheWriter


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache, which tests only read."""
    folder = tmp_path_factory.mktemp("caches") / "uninterrupted"
    write_cache(folder)
    return folder


def test_logits_lie_split_by_byte_and_compressed_without_dictionary(uninterrupted: Path):
    group = pq.ParquetFile(uninterrupted / SHARDS / "shard-00000.parquet").metadata.row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    logits = columns["topk_logits.list.element.list.element"]
    assert logits.physical_type == "FLOAT"
    assert "BYTE_STREAM_SPLIT" in logits.encodings
    assert "BYTE_STREAM_SPLIT" in columns["topk_ids.list.element.list.element"].encodings
    for column in columns.values():
        assert column.compression == "ZSTD"
        assert not column.has_dictionary_page
        assert not any("DICTIONARY" in encoding for encoding in column.encodings)


def test_parquet_itself_leaves_no_room_for_empty_cells(uninterrupted: Path):
    schema = pq.ParquetFile(uninterrupted / SHARDS / "shard-00000.parquet").schema
    levels = {schema.column(index).path: schema.column(index).max_definition_level for index in range(len(schema))}
    # One level for each list that may be empty; a nullable field at any depth would add one.
    assert levels == {
        "example_id": 0,
        "split": 0,
        "query": 0,
        "student_input_ids.list.element": 1,
        "response_ids.list.element": 1,
        "student_positions.list.element": 1,
        "topk_ids.list.element.list.element": 2,
        "topk_logits.list.element.list.element": 2,
    }


def test_every_shards_footer_names_its_capture_and_its_range(uninterrupted: Path):
    for index, (first_row, rows) in enumerate(((b"0", b"8"), (b"8", b"8"), (b"16", b"4"))):
        footer = pq.read_metadata(uninterrupted / SHARDS / f"shard-{index:05d}.parquet").metadata
        assert footer[FINGERPRINT_KEY] == make_fingerprint().digest().encode()
        assert (footer[FIRST_ROW_KEY], footer[ROWS_KEY]) == (first_row, rows)


def test_a_shards_description_is_that_of_its_rows(tmp_path: Path):
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        rows = rows_of(writer, 1)
        shard = writer.write(1, rows)
    logits = np.concatenate([row.topk_logits.reshape(-1) for row in rows]).astype(np.float64)
    assert (shard.name, shard.first_row, shard.rows) == ("shard-00001.parquet", 8, 8)
    assert shard.positions == logits.size // 4
    assert (shard.logit_min, shard.logit_max) == (logits.min(), logits.max())
    assert shard.logit_mean == pytest.approx(logits.mean(), rel=1e-12)


# Shard 0 has eight rows of 1, 2, 3, 1, 2, 3, 1 and 2 positions: 60 candidates.
@pytest.mark.parametrize(
    ("candidates", "groups"), [(60, [8]), (59, [7, 1]), (30, [4, 4]), (23, [3, 3, 2]), (4, [1] * 8)]
)
def test_a_row_group_holds_so_many_candidates_or_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidates: int, groups: list[int]
):
    monkeypatch.setattr(shard_files, "ROW_GROUP_CANDIDATES", candidates)
    write_cache(tmp_path / "cache")

    metadata = pq.read_metadata(tmp_path / "cache" / SHARDS / "shard-00000.parquet")
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == groups
    opened = LogitCache(tmp_path / "cache")
    opened.check_every_row()
    for index in (7, 0, 19, 8, 3):
        assert_same_row(opened.row(index), make_row(index, make_fingerprint()))


def test_a_row_group_is_a_mebibyte_of_ids_and_logits():
    # 2¹⁷ candidates of 4 + 4 bytes.
    assert shard_files.ROW_GROUP_CANDIDATES * 8 == 2**20


def test_ids_that_recur_are_written_in_a_dictionary_and_logits_never(tmp_path: Path):
    # Eight ids in any order: three bits each in a dictionary, three times three where each of their bytes stands apart.
    fingerprint = make_fingerprint(rows=300, vocab_size=100_000)
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 100_000, 8, dtype=np.int32)
    rows = []
    for index in range(300):
        ids = np.stack([rng.permutation(pool)[:4] for _ in range(1 + index % 3)])
        rows.append(replace(make_row(index, fingerprint), response_ids=ids[:, 0], topk_ids=ids))
    with CacheWriter(tmp_path / "cache", Plan(fingerprint=fingerprint, rows=300, shard_rows=300)) as writer:
        writer.write(0, rows)

    path = tmp_path / "cache" / SHARDS / "shard-00000.parquet"
    group = pq.read_metadata(path).row_group(0)
    encodings = {group.column(index).path_in_schema: group.column(index).encodings for index in range(8)}
    in_dictionary = [name for name, used in encodings.items() if any("DICTIONARY" in each for each in used)]
    assert in_dictionary == ["topk_ids.list.element.list.element"]
    assert "BYTE_STREAM_SPLIT" in encodings["topk_logits.list.element.list.element"]
    assert pq.read_table(path)["topk_ids"].to_pylist() == [each.topk_ids.tolist() for each in rows]


def test_a_footer_has_no_statistics_which_would_name_queries(uninterrupted: Path):
    group = pq.read_metadata(uninterrupted / SHARDS / "shard-00000.parquet").row_group(0)

    assert not any(group.column(index).is_stats_set for index in range(group.num_columns))
