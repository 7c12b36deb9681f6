"""One shard as a file: its name, its bytes, and what is read back from them."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import CacheError
from stages.files import sha256_file
from stages.logit_cache.checks import check_rows
from stages.logit_cache.manifest import SHARDS, Shard
from stages.logit_cache.plan import Plan
from stages.logit_cache.rows import ragged_matrix

FINGERPRINT_KEY = b"duet.fingerprint_sha256"
FIRST_ROW_KEY = b"duet.first_row"
ROWS_KEY = b"duet.rows"
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


def shard_name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.parquet"


def footer(plan: Plan, index: int) -> dict[bytes, bytes]:
    """What ties a shard's file to its plan and place."""
    return {
        FINGERPRINT_KEY: plan.fingerprint.digest().encode(),
        FIRST_ROW_KEY: str(plan.shard_range(index).start).encode(),
        ROWS_KEY: str(len(plan.shard_range(index))).encode(),
    }


def describe_shard(path: Path, plan: Plan, index: int) -> Shard:
    """Read a shard back from disk, check every row, and hash it."""
    expected = plan.shard_range(index)
    table = pq.read_table(path, partitioning=None)
    metadata = table.schema.metadata or {}
    if any(metadata.get(key) != value for key, value in footer(plan, index).items()) or table.num_rows != len(expected):
        raise CacheError(f"{path} is not shard {index} of this capture.")
    check_rows(table, plan.fingerprint, path.name)
    logits, _ = ragged_matrix(table["topk_logits"])
    return Shard(
        name=shard_name(index),
        first_row=expected.start,
        rows=table.num_rows,
        positions=len(logits),
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        logit_min=float(logits.min()),
        logit_max=float(logits.max()),
        logit_mean=float(logits.mean(dtype=np.float64)),
    )
