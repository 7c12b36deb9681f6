"""A frozen cache in, its rows out: streamed by row group, or fetched one by one, never the whole cache in memory.

Opening checks the manifest, the files and the hashes; every row group is checked before its rows leave. A cache may come
from another team: it is data, and nothing in it is executed, followed or trusted.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import CacheError
from stages.files import TEMPORARY_SUFFIX, open_plain, sha256_file
from stages.folder_lock import LOCK
from stages.logit_cache.checks import check_rows, check_schema, check_size
from stages.logit_cache.fingerprint import Fingerprint
from stages.logit_cache.footer import read_footer
from stages.logit_cache.manifest import (
    HASHES,
    MANIFEST,
    PLAN,
    SETTINGS,
    SHARDS,
    SIGNATURE,
    Manifest,
    Shard,
    read_manifest,
)
from stages.logit_cache.rows import Row, Split, ragged, table_to_rows

# Decompressed row groups kept per process; at 64 rows, 16 positions and K = 128 about 1 MB each.
KEPT_ROW_GROUPS = 256
# Shards open at once. A cache may have more of them than a process may have files.
KEPT_FILES = 32
# What pyarrow raises over files that were made to break it, names that are no UTF-8 and sizes beyond memory included.
READ_FAULTS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


class LogitCache:
    """A finished cache, opened for reading.

    folder: the cache. verify_hashes: compare each shard's SHA-256 with the manifest (one pass over the bytes).
    Raises CacheError if anything is missing, altered, not a plain file inside the folder, or not in the manifest.
    """

    def __init__(self, folder: Path, *, verify_hashes: bool = True) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        if extra := extra_files(folder, self.manifest):
            raise CacheError(
                f"{extra[0]} is no part of the cache; {len(extra)} such files lie there.",
                "A cache holds what its manifest names and nothing else, so nothing was read.",
                "Move them elsewhere. Whether the rest is sound:  duet cache verify " + str(folder),
            )
        for shard in self.manifest.shards:
            check_file(folder, shard, verify_hash=verify_hashes)
        self._groups: list[tuple[int, int, int]] = []  # (first row, shard, row group in it)
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._kept: OrderedDict[int, list[Row]] = OrderedDict()
        for index, shard in enumerate(self.manifest.shards):
            first = shard.first_row
            file, groups = open_shard(folder, shard, self.manifest.fingerprint)
            file.close()
            for group, rows in enumerate(groups):
                self._groups.append((first, index, group))
                first += rows
        self._first_rows = np.array([first for first, _, _ in self._groups])

    def __len__(self) -> int:
        return self.manifest.rows

    def row(self, index: int) -> Row:
        """Row `index` of the cache, 0 ≤ index < len(self)."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        group = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        return self._load(group)[index - int(self._first_rows[group])]

    def rows(self) -> Iterator[Row]:
        """All rows in order, one row group in memory at a time."""
        for table in self.tables():
            yield from table_to_rows(table)

    def tables(self) -> Iterator[pa.Table]:
        """All rows in order as Arrow tables, one row group each: the fastest way through a cache.

        `rows.ragged_matrix(table["topk_logits"])` gives float32 [positions, K] and the rows' offsets, without a copy.
        """
        for group in range(len(self._groups)):
            yield self._read(group)

    def check_every_row(self) -> None:
        """One pass over the whole cache: every row holds, and no example stands in it twice.

        For a cache that is to be trained on: a fault in its last shard shows before the first step.
        Raises CacheError.
        """
        digests = bytearray()
        for table in self.tables():
            digests += bytes.fromhex("".join(table["example_id"].to_pylist()))
        examples = np.frombuffer(digests, dtype="V16")
        _, first, counts = np.unique(examples, return_index=True, return_counts=True)
        if (counts > 1).any():
            row = int(first[counts > 1].min())
            raise CacheError(
                f"{self.folder}, row {row}: example {examples[row].tobytes().hex()} stands there more than once.",
                "A student would be taught two things for one query, so nothing was trained.",
                f"All faults:  duet cache verify {self.folder}",
            )

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Split (bool [rows], True where forget) and number of tokens (int64 [rows]), input and response, of every row."""
        forget, tokens = [], []
        for index in range(len(self.manifest.shards)):
            table = self._file(index).read(columns=["split", "student_input_ids", "response_ids"])
            forget.append(table["split"].to_numpy() == "forget")
            counts = [np.diff(ragged(table[column])[1]) for column in ("student_input_ids", "response_ids")]
            tokens.append(np.sum(counts, axis=0, dtype=np.int64))
        return np.concatenate(forget), np.concatenate(tokens)

    def frame(self, columns: Sequence[str] = ("example_id", "split", "query")) -> pl.DataFrame:
        """The chosen columns of all rows as a polars frame."""
        tables = [self._file(index).read(columns=list(columns)) for index in range(len(self.manifest.shards))]
        frame = pl.from_arrow(pa.concat_tables(tables))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def count(self, split: Split) -> int:
        """Rows of one split."""
        return self.manifest.splits.get(split, 0)

    def _load(self, group: int) -> list[Row]:
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        self._kept[group] = table_to_rows(self._read(group))
        if len(self._kept) > KEPT_ROW_GROUPS:
            self._kept.popitem(last=False)
        return self._kept[group]

    def _read(self, group: int) -> pa.Table:
        _, index, row_group = self._groups[group]
        return read_group(self._file(index), row_group, self.manifest.shards[index], self.manifest.fingerprint)

    def _file(self, index: int) -> pq.ParquetFile:
        if index in self._files:
            self._files.move_to_end(index)
            return self._files[index]
        self._files[index], _ = open_shard(self.folder, self.manifest.shards[index], self.manifest.fingerprint)
        if len(self._files) > KEPT_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[index]


def extra_files(cache: Path, manifest: Manifest) -> list[Path]:
    """What lies in the folder and is neither named by the manifest nor a trace of the work that made it."""
    own = {MANIFEST, SIGNATURE, SHARDS, SETTINGS, LOCK, PLAN, HASHES}
    shards = {shard.name for shard in manifest.shards}
    # A link in the place of the folder is told of by check_file, and not followed.
    inside = (cache / SHARDS).iterdir() if (cache / SHARDS).is_dir() and not (cache / SHARDS).is_symlink() else ()
    found = [path for path in cache.iterdir() if path.name not in own]
    found += [path for path in inside if path.name not in shards]
    return sorted(path for path in found if path.suffix != TEMPORARY_SUFFIX)


def check_file(cache: Path, shard: Shard, *, verify_hash: bool = True) -> None:
    """The shard is a plain file inside the cache, as long as the manifest says and with its SHA-256.

    Raises CacheError.
    """
    path = cache / SHARDS / shard.name
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        raise _damage(path, "is missing, or not a plain file")
    if (size := path.stat().st_size) != shard.bytes:
        raise _damage(path, f"has {size:,} bytes, the manifest says {shard.bytes:,}")
    if verify_hash and sha256_file(path) != shard.sha256:
        raise _damage(path, "has another SHA-256 than the manifest says")


def open_shard(cache: Path, shard: Shard, fingerprint: Fingerprint) -> tuple[pq.ParquetFile, list[int]]:
    """The shard's Parquet file and the rows of each of its row groups. Raises CacheError unless they are as promised."""
    path = cache / SHARDS / shard.name
    # Not by Arrow, which ends the process over some footers when it is asked about their chunks.
    with open_plain(path) as content:
        groups = read_footer(content, shard.name)
    try:
        # Not mapped: mapped pages count as the process's memory, which would grow with the cache.
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except READ_FAULTS as error:
        raise CacheError(f"{path} is not a Parquet file: {error}") from error
    check_schema(schema, fingerprint.top_k, shard.name)
    rows = [group.rows for group in groups]
    if sum(rows) != shard.rows or min(rows, default=0) < 1:
        raise CacheError(f"{shard.name} holds {sum(rows)} rows, the manifest says {shard.rows}.")
    for index, group in enumerate(groups):
        check_size(group, fingerprint, f"{shard.name}, row group {index}")
    return file, rows


def read_group(file: pq.ParquetFile, group: int, shard: Shard, fingerprint: Fingerprint) -> pa.Table:
    """One row group, checked row by row. Raises CacheError."""
    try:
        table = file.read_row_group(group)
        # Parquet's reader takes text and offsets as they come; only this looks at them.
        table.validate(full=True)
    except READ_FAULTS as error:
        raise CacheError(f"{shard.name}, row group {group} cannot be read: {error}") from error
    check_rows(table, fingerprint, f"{shard.name}, row group {group}")
    return table


def _damage(path: Path, what: str) -> CacheError:
    return CacheError(
        f"{path} {what}.",
        "The cache is not what was captured, so nothing was read from it.",
        "Fetch it again from where it came, or capture it anew into another folder.",
    )
