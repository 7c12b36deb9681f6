"""Rows in, a frozen cache out, shard by shard, whatever interrupts it.

A shard is a fixed range of rows with a fixed name. It is written under a temporary name, flushed, read back, hashed and
renamed; the manifest comes last. A second call with the same plan keeps the shards that are whole and sound, and asks
only for the rest: the finished cache is byte for byte the one of an uninterrupted run.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.errors import CacheError, CacheMismatch, OutputExists
from stages.files import TEMPORARY_SUFFIX, sha256_file, sync_folder, write_json
from stages.logit_cache.checks import check_rows
from stages.logit_cache.fingerprint import Fingerprint, cache_id
from stages.logit_cache.manifest import (
    MANIFEST,
    SHARDS,
    Manifest,
    Prefix,
    Provenance,
    Shard,
    publish_manifest,
    read_manifest,
)
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row, ragged_matrix, rows_to_table

PLAN = "capture.json"
LOCK = ".lock"
FINGERPRINT_KEY = b"duet.fingerprint_sha256"
FIRST_ROW_KEY = b"duet.first_row"
# Small row groups let a reader fetch single examples; 64 rows of K = 20 still compress as well as 1 000 do.
ROW_GROUP_ROWS = 64


class Plan(BaseModel):
    """What a capture set out to do, published before its first shard so that a rerun can be held to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: Fingerprint
    rows: int = Field(ge=1, description="Rows of the whole cache.")
    shard_rows: int = Field(ge=1, description="Rows of every shard but the last.")

    @property
    def shard_count(self) -> int:
        return math.ceil(self.rows / self.shard_rows)

    def shard_range(self, index: int) -> range:
        """Row indices of shard `index`."""
        return range(index * self.shard_rows, min((index + 1) * self.shard_rows, self.rows))


class CacheWriter:
    """Writes one cache; the only one that may, as long as it lives. Use it in a `with` block.

    Raises OutputExists if the folder holds something else, CacheMismatch if it holds a capture of another plan,
    CacheError if another process is writing it, or if it holds a finished cache that is damaged.
    """

    def __init__(self, cache: Path, plan: Plan) -> None:
        self.cache = cache
        self.plan = plan
        self._shards: dict[int, Shard] = {}
        self._refuse_foreign_folder()
        (cache / SHARDS).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(cache / LOCK)

    def __enter__(self) -> "CacheWriter":
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CacheError(
                f"{self.cache} is being written by another process.",
                "Two writers would mix their shards, so this one stopped.",
                f"Wait for the other, or write elsewhere:  make teacher-cache CONFIG=… CACHE={self.cache}-2",
            ) from None
        try:
            self._adopt_plan()
            if (self.cache / MANIFEST).exists():
                # Frozen: opening it checks every hash, and a damaged one is refused here, never mended in place.
                self._shards = dict(enumerate(LogitCache(self.cache).manifest.shards))
                return self
            for leftover in (self.cache / SHARDS).glob("*" + TEMPORARY_SUFFIX):
                leftover.unlink()
            for index in range(self.plan.shard_count):
                if shard := self._sound_shard(index):
                    self._shards[index] = shard
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def missing(self) -> list[int]:
        """Indices of the shards that are still to be written."""
        return [index for index in range(self.plan.shard_count) if index not in self._shards]

    def write(self, index: int, rows: Sequence[Row]) -> Shard:
        """Write shard `index` durably. rows: exactly those of `plan.shard_range(index)`, in order."""
        expected = self.plan.shard_range(index)
        if len(rows) != len(expected):
            raise ValueError(f"shard {index} takes {len(expected)} rows, got {len(rows)}")
        path = self._path(index)
        table = rows_to_table(rows, self.plan.fingerprint.top_k).replace_schema_metadata(self._footer(index))
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with open(temporary, "wb") as file:
            # BYTE_STREAM_SPLIT keeps float32 exact and makes it smaller than float16; a dictionary would undo it.
            pq.write_table(
                table,
                file,
                compression="zstd",
                use_dictionary=False,
                column_encoding={"topk_logits.list.element.list.element": "BYTE_STREAM_SPLIT"},
                row_group_size=ROW_GROUP_ROWS,
                store_schema=True,
            )
            file.flush()
            os.fsync(file.fileno())
        shard = self._describe(temporary, index)
        os.replace(temporary, path)
        sync_folder(path.parent)
        self._shards[index] = shard
        return shard

    def publish(self, prefix: Prefix, provenance: Provenance, licence: str | None, sensitivity: str | None) -> Manifest:
        """Freeze the cache. Raises CacheError as long as a shard is missing."""
        if self.missing:
            raise CacheError(f"{self.cache} still lacks shards {self.missing[:5]}; it cannot be published.")
        shards = [self._shards[index] for index in range(self.plan.shard_count)]
        splits: dict[str, int] = {}
        for shard in shards:
            for split in pq.read_table(self.cache / SHARDS / shard.name, columns=["split"])["split"].to_pylist():
                splits[split] = splits.get(split, 0) + 1
        manifest = Manifest(
            cache_id=cache_id(self.plan.fingerprint, (shard.sha256 for shard in shards)),
            fingerprint=self.plan.fingerprint,
            fingerprint_sha256=self.plan.fingerprint.digest(),
            prefix=prefix,
            splits=splits,
            rows=self.plan.rows,
            positions=sum(shard.positions for shard in shards),
            shards=shards,
            provenance=provenance,
            licence=licence,
            sensitivity=sensitivity,
        )
        publish_manifest(self.cache, manifest)
        (self.cache / PLAN).unlink(missing_ok=True)
        return manifest

    def _path(self, index: int) -> Path:
        return self.cache / SHARDS / f"shard-{index:05d}.parquet"

    def _footer(self, index: int) -> dict[bytes, bytes]:
        return {
            FINGERPRINT_KEY: self.plan.fingerprint.digest().encode(),
            FIRST_ROW_KEY: str(self.plan.shard_range(index).start).encode(),
        }

    def _refuse_foreign_folder(self) -> None:
        if not self.cache.exists():
            return
        if self.cache.is_dir():
            names = {entry.name for entry in self.cache.iterdir()}
            if not names or MANIFEST in names or PLAN in names or names <= {LOCK, SHARDS, PLAN + TEMPORARY_SUFFIX}:
                return
        raise OutputExists(
            f"{self.cache} already holds something that is not a logit cache.",
            "Nothing was written there.",
            "Name another folder with --out (make: CACHE=…), or move that one away.",
        )

    def _adopt_plan(self) -> None:
        if (self.cache / MANIFEST).exists():
            finished = read_manifest(self.cache)
            self._refuse_other_plan(finished.fingerprint, finished.provenance.shard_rows, "holds a finished cache of")
            return
        path = self.cache / PLAN
        if path.exists():
            try:
                begun = Plan.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise CacheError(f"{path} is not a capture plan ({error.error_count()} faults).") from error
            self._refuse_other_plan(begun.fingerprint, begun.shard_rows, "holds an unfinished capture of")
        else:
            write_json(path, self.plan.model_dump(mode="json"))

    def _refuse_other_plan(self, fingerprint: Fingerprint, shard_rows: int, holds: str) -> None:
        differences = fingerprint.differences(self.plan.fingerprint)
        if shard_rows != self.plan.shard_rows:
            differences.append(f"shard_rows: {shard_rows} → {self.plan.shard_rows}")
        if differences:
            raise CacheMismatch(
                f"{self.cache} {holds} another plan:\n    " + "\n    ".join(differences),
                "Both cannot live in one cache; it was left as it is.",
                "Name another folder with --out (make: CACHE=…), or move that one away.",
            )

    def _sound_shard(self, index: int) -> Shard | None:
        """The shard's description if it is there and passes every check; a broken one is removed."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            return self._describe(path, index)
        except (CacheError, pa.ArrowException, OSError):
            # Renamed after fsync and yet unreadable: the disk lied. Its rows can be captured again.
            path.unlink()
            return None

    def _describe(self, path: Path, index: int) -> Shard:
        """Read a shard back from disk, check every row, and hash it."""
        expected = self.plan.shard_range(index)
        table = pq.read_table(path, partitioning=None)
        metadata = table.schema.metadata or {}
        if any(metadata.get(key) != value for key, value in self._footer(index).items()) or table.num_rows != len(
            expected
        ):
            raise CacheError(f"{path} is not shard {index} of this capture.")
        check_rows(table, self.plan.fingerprint, path.name)
        logits, _ = ragged_matrix(table["topk_logits"])
        return Shard(
            name=self._path(index).name,
            first_row=expected.start,
            rows=table.num_rows,
            positions=len(logits),
            bytes=path.stat().st_size,
            sha256=sha256_file(path),
            logit_min=float(logits.min()),
            logit_max=float(logits.max()),
            logit_mean=float(logits.mean(dtype=np.float64)),
        )
