"""How a shard lies in Parquet, and what its footer and its description say of it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from captures import make_plan, rows_of
from conftest import make_fingerprint, write_cache

from stages.logit_cache.manifest import SHARDS
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
