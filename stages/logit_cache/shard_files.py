"""One shard as a file: its name, its bytes, and what is read back from them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stages.logit_cache.manifest import SHARDS, Shard, shard_name
from stages.logit_cache.pinned_file import PinnedFile
from stages.logit_cache.plan import Plan
from stages.logit_cache.shard_reader import FINGERPRINT_KEY, FIRST_ROW_KEY, ROWS_KEY, Promise, ShardReader, Sums

# A row group is what a reader fetches for a single example: 1 MiB of candidates, too large to be slow or to compress badly.
ROW_GROUP_CANDIDATES = 2**17
IDS = "topk_ids.list.element.list.element"
LOGITS = "topk_logits.list.element.list.element"


def write_shard(table: pa.Table, file: BinaryIO) -> None:
    """Write the table as Parquet, the same bytes for the same rows.

    Logits are split by byte, which keeps float32 exact and makes it smaller than float16. Ids are, too, unless they recur
    so often (first positions of one topic) that a dictionary makes them smaller still.
    """
    ids = table.select(["topk_ids"])
    in_dictionary = _parquet_bytes(ids, dictionary=True) < _parquet_bytes(ids, dictionary=False)
    _write_parquet(table, file, dictionary=in_dictionary)


def _parquet_bytes(table: pa.Table, *, dictionary: bool) -> int:
    buffer = io.BytesIO()
    _write_parquet(table, buffer, dictionary=dictionary)
    return buffer.tell()


def _write_parquet(table: pa.Table, file: BinaryIO, *, dictionary: bool) -> None:
    candidates = table["topk_ids"].combine_chunks().flatten()
    group_rows = ROW_GROUP_CANDIDATES * table.num_rows // (len(candidates) * candidates.type.list_size)
    split = {IDS, LOGITS} if not dictionary else {LOGITS}
    pq.write_table(
        table,
        file,
        compression="zstd",
        compression_level=9,
        use_dictionary=[IDS] if dictionary else False,
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        row_group_size=max(group_rows, 1),
        write_statistics=False,
        store_schema=True,
    )


def shard_path(cache: Path, index: int) -> Path:
    """Where shard `index` lies."""
    return cache / SHARDS / shard_name(index)


def footer(plan: Plan, index: int) -> dict[bytes, bytes]:
    """What ties a shard's file to its plan and place."""
    return {
        FINGERPRINT_KEY: plan.fingerprint.digest().encode(),
        FIRST_ROW_KEY: str(plan.shard_range(index).start).encode(),
        ROWS_KEY: str(len(plan.shard_range(index))).encode(),
    }


@dataclass(frozen=True)
class Described:
    """A shard as it lies on the disk: its record in the manifest, and its rows of each split."""

    shard: Shard
    splits: dict[str, int]


def describe_shard(path: Path, plan: Plan, index: int) -> Described:
    """Read a shard back from disk once, hash it, and check every row. Raises CacheError if it is not this plan's."""
    expected, sums = plan.shard_range(index), Sums()
    promise = Promise(
        path.name, plan.fingerprint, plan.fingerprint.digest(), first_row=expected.start, rows=len(expected)
    )
    with ShardReader(PinnedFile(path), promise) as reader:
        for table in reader.groups():
            sums.add(table, with_mean=True)
        pin = reader.pin
    shard = Shard(
        name=shard_name(index),
        first_row=expected.start,
        rows=len(expected),
        positions=sums.positions,
        bytes=pin.size_bytes,
        sha256=pin.sha256,
        logit_min=sums.logit_min,
        logit_max=sums.logit_max,
        logit_mean=sums.mean(plan.fingerprint.top_k),
    )
    return Described(shard, sums.splits)
