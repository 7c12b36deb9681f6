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

from stages.errors import CacheError
from stages.logit_cache.checks import check_example_ids
from stages.logit_cache.manifest import (
    Manifest,
    Shard,
    extra_files,
    read_manifest,
)
from stages.logit_cache.pinned_file import Pin
from stages.logit_cache.rows import Row, Split, ragged, table_to_rows
from stages.logit_cache.shard_reader import ShardReader, Sums, count_splits, open_file, open_shard, splits_fault

# Decompressed row groups kept per process; at 64 rows, 16 positions and K = 128 about 1 MB each.
KEPT_ROW_GROUPS = 256
# Shards open at once. A cache may have more of them than a process may have files.
KEPT_FILES = 32


class LogitCache:
    """A finished cache, opened for reading: each shard is hashed once, and what is read later is held to that hash.

    folder: the cache.
    Raises CacheError if anything is missing, altered, not a plain file inside the folder, or not in the manifest; so does
    every method if a file is altered or exchanged afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        if extra := extra_files(folder, (shard.name for shard in self.manifest.shards)):
            raise CacheError(
                f"{extra[0]} is no part of the cache; {len(extra)} such files lie there.",
                "A cache holds what its manifest names and nothing else, so nothing was read.",
                "Move them elsewhere. Whether the rest is sound:  duet cache verify " + str(folder),
            )
        self._pins: list[Pin] = []
        self._groups: list[tuple[int, int, int]] = []  # (first row, shard, row group in it)
        splits: dict[str, int] = {}
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._kept: OrderedDict[int, list[Row]] = OrderedDict()
        for index, shard in enumerate(self.manifest.shards):
            first = shard.first_row
            with open_shard(folder, self.manifest, shard) as reader:
                self._pins.append(reader.pin)
                count_splits(splits, reader.columns(["split"])["split"])
                for group, rows in enumerate(reader.group_rows):
                    self._groups.append((first, index, group))
                    first += rows
        self._first_rows = np.array([first for first, _, _ in self._groups])
        if fault := splits_fault(self.manifest, splits) or self.manifest.shard_rows_fault():
            raise CacheError(f"{folder} {fault}.")

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
        Raises CacheError, at the latest behind a shard's last, also if the manifest says otherwise of the shard's logits.
        """
        for index, shard in enumerate(self.manifest.shards):
            sums = Sums()
            for table in self._reader(index).groups():
                sums.add(table, with_mean=False)
                yield table
            if fault := sums.fault(shard):
                raise CacheError(f"{shard.name} {fault}.")

    def check_every_row(self) -> None:
        """One pass over the whole cache: every row holds, is named by its query, and stands in it once.

        For a cache that is to be trained on: a fault in its last shard shows before the first step.
        Raises CacheError.
        """
        examples = Examples()
        for number, table in enumerate(self.tables()):
            examples.add(table, f"{self.folder}, row group {number}")
        examples.refuse_repeated(self.folder)

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Split (bool [rows], True where forget) and number of tokens (int64 [rows]), input and response, of every row."""
        table = self._columns(["split", "student_input_ids", "response_ids"])
        tokens = np.zeros(len(self), dtype=np.int64)
        for name in ("student_input_ids", "response_ids"):
            tokens += np.concatenate([np.diff(ragged(chunk)[1]) for chunk in table[name].chunks])
        return table["split"].to_numpy() == "forget", tokens

    def frame(self, columns: Sequence[str] = ("example_id", "split", "query")) -> pl.DataFrame:
        """The chosen columns of all rows as a polars frame."""
        frame = pl.from_arrow(self._columns(columns))
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
        return self._reader(index).group(row_group)

    def _columns(self, names: Sequence[str]) -> pa.Table:
        return pa.concat_tables([self._reader(index).columns(names) for index in range(len(self.manifest.shards))])

    def _reader(self, index: int) -> ShardReader:
        if index in self._readers:
            self._readers.move_to_end(index)
            return self._readers[index]
        shard = self.manifest.shards[index]
        self._readers[index] = open_shard(self.folder, self.manifest, shard, self._pins[index])
        if len(self._readers) > KEPT_FILES:
            self._readers.popitem(last=False)[1].close()
        return self._readers[index]


def check_file(cache: Path, shard: Shard) -> None:
    """The shard is a plain file inside the cache, as long as the manifest says and with its SHA-256. Raises CacheError."""
    open_file(cache, shard).close()


class Examples:
    """The examples of a cache, taken in table by table: each is named by its query, and none stands there twice."""

    def __init__(self) -> None:
        self._digests = bytearray()

    def add(self, table: pa.Table, where: str) -> None:
        """Take in the next rows. Raises CacheError if one is not named by its query."""
        check_example_ids(table, where)
        self._digests += bytes.fromhex("".join(table["example_id"].to_pylist()))

    def refuse_repeated(self, cache: Path) -> None:
        """Raise CacheError if an example came twice."""
        examples = np.frombuffer(self._digests, dtype="V16")
        _, first, counts = np.unique(examples, return_index=True, return_counts=True)
        if (counts > 1).any():
            row = int(first[counts > 1].min())
            raise CacheError(
                f"{cache}, row {row}: example {examples[row].tobytes().hex()} stands there more than once.",
                "A student would be taught two things for one query, so nothing was done with it.",
            )


def check_shard(cache: Path, manifest: Manifest, shard: Shard, examples: Examples, splits: dict[str, int]) -> None:
    """Everything that can be checked of one shard alone: its bytes, every row, and the sums over them.

    examples, splits: take in its rows, for what is to be checked over all shards. Raises CacheError.
    """
    sums, top_k = Sums(splits=splits), manifest.fingerprint.top_k
    with open_shard(cache, manifest, shard) as reader:
        for group, table in enumerate(reader.groups()):
            examples.add(table, f"{shard.name}, row group {group}")
            sums.add(table, with_mean=True)
    if fault := sums.fault(shard, top_k):
        raise CacheError(f"{shard.name} {fault}.")
