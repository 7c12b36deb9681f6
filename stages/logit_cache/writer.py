"""Rows in, a frozen cache out, shard by shard, whatever interrupts it.

A shard is a fixed range of rows with a fixed name. It is written under a temporary name, flushed, read back and hashed;
its hash is noted; only then is it renamed. The manifest comes last. A second call with the same plan keeps the shards
that still have the bytes which were noted, and asks only for the rest: the finished cache is byte for byte the one of an
uninterrupted run.
"""

import errno
import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.errors import CacheError, CacheMismatch, OutputExists
from stages.files import TEMPORARY_SUFFIX, sha256_file, sync_folder, write_atomically, write_json
from stages.logit_cache.checks import check_rows
from stages.logit_cache.fingerprint import Fingerprint, cache_id
from stages.logit_cache.manifest import (
    HASHES,
    LOCK,
    MANIFEST,
    PLAN,
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

FINGERPRINT_KEY = b"duet.fingerprint_sha256"
FIRST_ROW_KEY = b"duet.first_row"
ROWS_KEY = b"duet.rows"
# A row group is what a reader fetches for a single example: 1 MiB of candidates, too large to be slow or to compress badly.
ROW_GROUP_CANDIDATES = 2**17
IDS = "topk_ids.list.element.list.element"
LOGITS = "topk_logits.list.element.list.element"


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
        refuse_other_contents(cache, plan)
        self._make_folders()
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
            # Again, now that nobody else can change it.
            refuse_other_contents(self.cache, self.plan)
            self._shards = whole_shards(self.cache, self.plan)
            if not (self.cache / MANIFEST).exists():
                self._take_over()
            else:
                self._forget_plan()
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
        path = shard_path(self.cache, index)
        table = rows_to_table(rows, self.plan.fingerprint.top_k).replace_schema_metadata(_footer(self.plan, index))
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with refuse_full_disk(self.cache):
            try:
                with open(temporary, "wb") as file:
                    write_shard(table, file)
                    file.flush()
                    os.fsync(file.fileno())
                shard = _describe(temporary, self.plan, index)
                # Noted before the rename: a shard under its final name always has a hash to be held to.
                self._note_hashes({**self._shards, index: shard})
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
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
        with refuse_full_disk(self.cache):
            publish_manifest(self.cache, manifest)
        self._forget_plan()
        return manifest

    def _make_folders(self) -> None:
        """Make the cache's folders, and make them durable: a power cut must not take a finished cache with its folder."""
        shards = self.cache.absolute() / SHARDS
        new = [folder for folder in (shards, *shards.parents) if not folder.exists()]
        with refuse_full_disk(self.cache):
            shards.mkdir(parents=True, exist_ok=True)
            for folder in new:
                sync_folder(folder.parent)

    def _take_over(self) -> None:
        """Publish the plan, and remove what cannot be kept."""
        with refuse_full_disk(self.cache):
            if not (self.cache / PLAN).exists():
                write_json(self.cache / PLAN, self.plan.model_dump(mode="json"))
            for leftover in (self.cache / SHARDS).glob("*" + TEMPORARY_SUFFIX):
                leftover.unlink()
            for index in self.missing:
                shard_path(self.cache, index).unlink(missing_ok=True)
            self._note_hashes(self._shards)

    def _note_hashes(self, shards: dict[int, Shard]) -> None:
        lines = [f"{shard.sha256}  {SHARDS}/{shard.name}\n" for _, shard in sorted(shards.items())]
        write_atomically(self.cache / HASHES, "".join(lines).encode())

    def _forget_plan(self) -> None:
        for name in (PLAN, HASHES):
            (self.cache / name).unlink(missing_ok=True)


def whole_shards(cache: Path, plan: Plan) -> dict[int, Shard]:
    """The shards of this plan that are there, whole and with the bytes that were captured. Reads only.

    Raises OutputExists, CacheMismatch or CacheError where a CacheWriter would.
    """
    refuse_other_contents(cache, plan)
    if (cache / MANIFEST).exists():
        # Frozen: opening it checks every hash, and a damaged one is refused here, never mended in place.
        return dict(enumerate(LogitCache(cache).manifest.shards))
    noted = _noted_hashes(cache)
    found = ((index, _whole_shard(cache, plan, index, noted)) for index in range(plan.shard_count))
    return {index: shard for index, shard in found if shard}


def refuse_other_contents(cache: Path, plan: Plan) -> None:
    """Raise OutputExists if the folder holds anything but a capture, CacheMismatch if it is one of another plan."""
    if not cache.exists():
        return
    names = {entry.name for entry in cache.iterdir()} if cache.is_dir() else {"a file"}
    if MANIFEST in names:
        finished = read_manifest(cache)
        _refuse_other_plan(cache, plan, finished.fingerprint, finished.provenance.shard_rows, "holds a finished cache")
    elif PLAN in names:
        try:
            begun = Plan.model_validate_json((cache / PLAN).read_bytes())
        except ValidationError as error:
            raise CacheError(f"{cache / PLAN} is not a capture plan ({error.error_count()} faults).") from error
        _refuse_other_plan(cache, plan, begun.fingerprint, begun.shard_rows, "holds an unfinished capture")
    elif names - {LOCK, SHARDS, PLAN + TEMPORARY_SUFFIX}:
        raise OutputExists(
            f"{cache} already holds something that is not a logit cache.",
            "Nothing was written there.",
            "Name another folder with --out (make: CACHE=…), or move that one away.",
        )


def _refuse_other_plan(cache: Path, plan: Plan, fingerprint: Fingerprint, shard_rows: int, holds: str) -> None:
    differences = fingerprint.differences(plan.fingerprint)
    if shard_rows != plan.shard_rows:
        differences.append(f"shard_rows: {shard_rows} → {plan.shard_rows}")
    if differences:
        raise CacheMismatch(
            f"{cache} {holds} of another plan:\n    " + "\n    ".join(differences),
            "Both cannot live in one cache; it was left as it is.",
            "Name another folder with --out (make: CACHE=…), or move that one away.",
        )


@contextmanager
def refuse_full_disk(cache: Path) -> Iterator[None]:
    """Turn "no room" into a CacheError that says what stays and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise CacheError(
            f"There is no room for {cache}: {error.strerror}.",
            "The shards that were finished stay as they are; nothing half-written counts.",
            "Make room, then give the same command again: it does only the rest.",
        ) from error


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


def _footer(plan: Plan, index: int) -> dict[bytes, bytes]:
    return {
        FINGERPRINT_KEY: plan.fingerprint.digest().encode(),
        FIRST_ROW_KEY: str(plan.shard_range(index).start).encode(),
        ROWS_KEY: str(len(plan.shard_range(index))).encode(),
    }


def _noted_hashes(cache: Path) -> dict[str, str]:
    """SHA-256 by shard name, as the capture noted them; empty if it had not come so far."""
    path = cache / HASHES
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return {name: sha256 for sha256, _, name in (line.partition(f"  {SHARDS}/") for line in lines)}


def _whole_shard(cache: Path, plan: Plan, index: int, noted: dict[str, str]) -> Shard | None:
    path = shard_path(cache, index)
    if not path.exists():
        return None
    try:
        shard = _describe(path, plan, index)
    except (CacheError, pa.ArrowException, OSError):
        # Renamed after fsync and yet unreadable: the disk lied. Its rows can be captured again.
        return None
    return shard if shard.sha256 == noted.get(shard.name) else None


def _describe(path: Path, plan: Plan, index: int) -> Shard:
    """Read a shard back from disk, check every row, and hash it."""
    expected = plan.shard_range(index)
    table = pq.read_table(path, partitioning=None)
    metadata = table.schema.metadata or {}
    if any(metadata.get(key) != value for key, value in _footer(plan, index).items()) or table.num_rows != len(
        expected
    ):
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
