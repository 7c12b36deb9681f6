"""One shard in, its rows out as Arrow tables: the only place where a shard's Parquet is read.

Whatever is read is counted: the footer against what the manifest promises, what comes back against the footer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import CacheError
from stages.logit_cache.checks import LARGEST_COLUMN_BYTES, check_names, check_rows, check_schema, check_size
from stages.logit_cache.fingerprint import Fingerprint
from stages.logit_cache.footer import read_footer
from stages.logit_cache.manifest import SHARDS, Manifest, Shard
from stages.logit_cache.pinned_file import Pin, PinnedFile, damage
from stages.logit_cache.rows import ragged_matrix

FINGERPRINT_KEY = b"duet.fingerprint_sha256"
FIRST_ROW_KEY = b"duet.first_row"
ROWS_KEY = b"duet.rows"
# What pyarrow raises over files that were made to break it, names that are no UTF-8 and sizes beyond memory included.
READ_FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
# Sums of float32 logits in another order differ in the last digits.
MEAN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Promise:
    """What a shard is to hold. positions: None where that is yet to be found out, by the one who captures it."""

    name: str
    fingerprint: Fingerprint
    fingerprint_sha256: str
    first_row: int
    rows: int
    positions: int | None = None

    @classmethod
    def of(cls, manifest: Manifest, shard: Shard) -> "Promise":
        """What a manifest promises of one of its shards."""
        return cls(
            shard.name, manifest.fingerprint, manifest.fingerprint_sha256, shard.first_row, shard.rows, shard.positions
        )


class ShardReader:
    """A shard that is open. file: it is closed with the reader.

    Raises CacheError unless columns, footer and every count in it are as promised.
    """

    def __init__(self, file: PinnedFile, promise: Promise) -> None:
        self.pin, self._file, self._promise = file.pin, file, promise
        try:
            # Not by Arrow, which ends the process over some footers when it is asked about their chunks.
            self._groups = read_footer(file, promise.name)
            self._parquet = _opened(file)
            self.group_rows, self.group_positions = self._counted()
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._parquet.close()
        self._file.close()

    def group(self, index: int) -> pa.Table:
        """Row group `index`, counted and checked row by row. Raises CacheError."""
        where = f"{self._promise.name}, row group {index}"
        self._load(index)
        table = self._read(index, None)
        self._file.let_go()
        check_rows(table, self._promise.fingerprint, where)
        positions = len(table["response_ids"].combine_chunks().flatten())
        if positions != self.group_positions[index]:
            raise CacheError(f"{where} holds {positions} positions, its footer says {self.group_positions[index]}.")
        return table

    def groups(self) -> Iterator[pa.Table]:
        """All row groups in order."""
        for index in range(len(self.group_rows)):
            yield self.group(index)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """The chosen columns of all rows, counted; splits and example ids among them are checked. Raises CacheError."""
        tables = []
        for index in range(len(self.group_rows)):
            tables.append(self._read(index, list(names)))
            check_names(tables[-1], f"{self._promise.name}, row group {index}")
        return pa.concat_tables(tables)

    def _read(self, index: int, names: list[str] | None) -> pa.Table:
        where = f"{self._promise.name}, row group {index}"
        try:
            table = self._parquet.read_row_group(index, columns=names)
            # Parquet's reader takes text and offsets as they come; only this looks at them.
            table.validate(full=True)
        except READ_FAULTS as error:
            raise CacheError(f"{where} cannot be read: {error}") from error
        if table.num_rows != self.group_rows[index] or table.num_columns != len(names or table.schema.names):
            raise CacheError(f"{where} holds {table.num_rows} rows, its footer says {self.group_rows[index]}.")
        return table

    def _load(self, index: int) -> None:
        """Read a row group's columns in one go, if they lie together as a writer lays them."""
        chunks = self._groups[index].chunks
        start, end = min(chunk.start for chunk in chunks), max(chunk.start + chunk.packed_bytes for chunk in chunks)
        if start < end <= min(self.pin.size_bytes, start + LARGEST_COLUMN_BYTES):
            self._file.load(start, end)

    def _counted(self) -> tuple[list[int], list[int]]:
        """Rows and positions of each row group. Raises CacheError unless they add up to what was promised."""
        promise, metadata = self._promise, self._parquet.metadata
        check_schema(self._parquet.schema_arrow, promise.fingerprint.top_k, promise.name)
        rows = [group.rows for group in self._groups]
        if sum(rows) != promise.rows or min(rows, default=0) < 1:
            raise CacheError(f"{promise.name} holds {sum(rows)} rows, the manifest says {promise.rows}.")
        positions = [
            check_size(group, promise.fingerprint, f"{promise.name}, row group {index}")
            for index, group in enumerate(self._groups)
        ]
        if fault := footer_fault(metadata.metadata or {}, promise):
            raise CacheError(f"{promise.name} {fault}.")
        if promise.positions not in (None, sum(positions)):
            raise CacheError(f"{promise.name} holds {sum(positions)} positions, the manifest says {promise.positions}.")
        return rows, positions


@dataclass
class Sums:
    """What the manifest says of a shard's rows, found again while they are read."""

    positions: int = 0
    logit_sum: float = 0.0
    logit_min: float = np.inf
    logit_max: float = -np.inf
    splits: dict[str, int] = field(default_factory=dict)

    def add(self, table: pa.Table, *, with_mean: bool) -> None:
        """Take in a table that was checked. with_mean: also what costs a pass over all logits."""
        logits_PK, _ = ragged_matrix(table["topk_logits"])
        self.positions += len(logits_PK)
        # Sorted, so the extremes stand at the ends.
        self.logit_min = min(self.logit_min, float(logits_PK[:, -1].min()))
        self.logit_max = max(self.logit_max, float(logits_PK[:, 0].max()))
        if with_mean:
            self.logit_sum += float(logits_PK.sum(dtype=np.float64))
        count_splits(self.splits, table["split"])

    def mean(self, top_k: int) -> float:
        """Mean over all logits, if all were added with it."""
        return self.logit_sum / (self.positions * top_k)

    def fault(self, shard: Shard, top_k: int | None = None) -> str | None:
        """What the manifest says otherwise of the shard's logits, or None. top_k: compare the mean, too."""
        differ = (self.logit_min, self.logit_max) != (shard.logit_min, shard.logit_max)
        if differ or (top_k and not abs(self.mean(top_k) - shard.logit_mean) <= MEAN_TOLERANCE):
            return "has other extremes or another mean than the manifest says"
        return None


def open_shard(cache: Path, manifest: Manifest, shard: Shard, pin: Pin | None = None) -> ShardReader:
    """One shard of a cache, its bytes held to the manifest's SHA-256; pin: as an earlier reader had it.

    Raises CacheError if it is missing, altered, not a plain file inside the folder, or not what is promised.
    """
    return ShardReader(open_file(cache, shard, pin), Promise.of(manifest, shard))


def open_file(cache: Path, shard: Shard, pin: Pin | None = None) -> PinnedFile:
    """The shard's file alone, held to the manifest's SHA-256. Raises CacheError as `open_shard` does."""
    path = cache / SHARDS / shard.name
    if path.parent.is_symlink():
        raise damage(path, "is missing, or not a plain file")
    file = PinnedFile(path, pin, promised_bytes=shard.bytes)
    if file.pin.sha256 != shard.sha256:
        file.close()
        raise damage(path, "has another SHA-256 than the manifest says")
    return file


def count_splits(counts: dict[str, int], column: pa.ChunkedArray) -> None:
    """Add the rows of each split to counts."""
    for each in column.value_counts().to_pylist():
        counts[each["values"]] = counts.get(each["values"], 0) + each["counts"]


def splits_fault(manifest: Manifest, counted: dict[str, int]) -> str | None:
    """What the manifest says otherwise of the rows of each split, or None; a split that it does not name has none."""
    if {split: count for split, count in manifest.splits.items() if count} == counted:
        return None
    found, said = (
        ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
        for counts in (counted, manifest.splits)
    )
    return f"holds {found} rows, the manifest says {said}"


def footer_fault(metadata: dict[bytes, bytes], promise: Promise) -> str | None:
    """What the footer says otherwise of the shard's place than was promised, or None."""
    if metadata.get(FINGERPRINT_KEY) != promise.fingerprint_sha256.encode():
        return "belongs to another capture: its footer has another fingerprint"
    if metadata.get(FIRST_ROW_KEY) != str(promise.first_row).encode():
        return f"stands in the wrong place: its footer does not say row {promise.first_row}"
    # The first caches of version 1 lack it.
    if metadata.get(ROWS_KEY, str(promise.rows).encode()) != str(promise.rows).encode():
        return f"is not whole: its footer does not say {promise.rows} rows"
    return None


def _opened(file: PinnedFile) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file)
        parquet.schema_arrow  # noqa: B018  touched here, where every fault of a footer is expected
    except READ_FAULTS as error:
        raise CacheError(f"{file.path} is not a Parquet file: {error}") from error
    return parquet
