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
from stages.files import sha256_file
from stages.logit_cache.checks import check_rows, check_schema
from stages.logit_cache.manifest import SHARDS, Manifest, Shard, read_manifest
from stages.logit_cache.rows import Row, Split, ragged, table_to_rows

# Decompressed row groups kept per process; at 64 rows, 16 positions and K = 128 about 1 MB each.
KEPT_ROW_GROUPS = 256


class LogitCache:
    """A finished cache, opened for reading.

    folder: the cache. verify_hashes: compare each shard's SHA-256 with the manifest (one pass over the bytes).
    Raises CacheError if anything is missing, altered, or not a plain file inside the folder.
    """

    def __init__(self, folder: Path, *, verify_hashes: bool = True) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        for shard in self.manifest.shards:
            self._check_file(shard, verify_hashes)
        self._groups: list[tuple[int, int, int]] = []  # (first row, shard, row group in it)
        self._files: dict[int, pq.ParquetFile] = {}
        self._kept: OrderedDict[int, list[Row]] = OrderedDict()
        for index, shard in enumerate(self.manifest.shards):
            first = shard.first_row
            for group, rows in enumerate(self._group_rows(index)):
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
        for group in range(len(self._groups)):
            yield from self._load(group)

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Split (bool [rows], True where forget) and number of positions (int32 [rows]) of every row."""
        forget, lengths = [], []
        for index in range(len(self.manifest.shards)):
            table = self._file(index).read(columns=["split", "response_ids"])
            forget.append(table["split"].to_numpy() == "forget")
            lengths.append(np.diff(ragged(table["response_ids"])[1]).astype(np.int32))
        return np.concatenate(forget), np.concatenate(lengths)

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
        _, shard, row_group = self._groups[group]
        name = self.manifest.shards[shard].name
        try:
            table = self._file(shard).read_row_group(row_group)
        except (pa.ArrowException, OSError) as error:
            raise CacheError(f"{self.folder}/{SHARDS}/{name} cannot be read: {error}") from error
        check_rows(table, self.manifest.fingerprint, f"{name}, row group {row_group}")
        self._kept[group] = table_to_rows(table)
        if len(self._kept) > KEPT_ROW_GROUPS:
            self._kept.popitem(last=False)
        return self._kept[group]

    def _file(self, index: int) -> pq.ParquetFile:
        if index not in self._files:
            path = self.folder / SHARDS / self.manifest.shards[index].name
            try:
                self._files[index] = pq.ParquetFile(path, memory_map=True)
            except (pa.ArrowException, OSError) as error:
                raise CacheError(f"{path} is not a Parquet file: {error}") from error
        return self._files[index]

    def _group_rows(self, index: int) -> list[int]:
        file, shard = self._file(index), self.manifest.shards[index]
        check_schema(file.schema_arrow, self.manifest.fingerprint.top_k, shard.name)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        if sum(rows) != shard.rows or min(rows) < 1:
            raise CacheError(f"{shard.name} holds {sum(rows)} rows, the manifest says {shard.rows}.")
        return rows

    def _check_file(self, shard: Shard, verify_hashes: bool) -> None:
        path = self.folder / SHARDS / shard.name
        if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
            raise self._damage(shard, "is missing, or not a plain file")
        if (size := path.stat().st_size) != shard.bytes:
            raise self._damage(shard, f"has {size:,} bytes, the manifest says {shard.bytes:,}")
        if verify_hashes and sha256_file(path) != shard.sha256:
            raise self._damage(shard, "has another SHA-256 than the manifest says")

    def _damage(self, shard: Shard, what: str) -> CacheError:
        return CacheError(
            f"{self.folder}/{SHARDS}/{shard.name} {what}.",
            "The cache is not what was captured, so nothing was read from it.",
            "Fetch it again from where it came, or capture it anew into another folder.",
        )
