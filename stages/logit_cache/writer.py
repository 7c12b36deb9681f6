"""Rows in, a frozen cache out, shard by shard, whatever interrupts it.

A shard is a fixed range of rows with a fixed name. It is written under a temporary name, flushed, read back and hashed;
its hash is noted; only then is it renamed. The manifest comes last. A second call with the same plan keeps the shards
that still have the bytes which were noted, and asks only for the rest: the finished cache is byte for byte the one of an
uninterrupted run.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from stages.errors import CacheError, DataError
from stages.files import (
    NO_ROOM,
    TEMPORARY_SUFFIX,
    append,
    make_own_folder,
    open_new,
    open_plain,
    remove_file,
    sync_folder,
    write_atomically,
    write_json,
)
from stages.folder_lock import FolderLock, hold_alone
from stages.logit_cache.fingerprint import cache_id
from stages.logit_cache.manifest import (
    HASHES,
    MANIFEST,
    PLAN,
    SHARDS,
    Manifest,
    Prefix,
    Provenance,
    Shard,
    publish_manifest,
)
from stages.logit_cache.plan import Plan, refuse_other_contents
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import SPLITS, Row, rows_to_table
from stages.logit_cache.shard_files import Described, describe_shard, footer, shard_path, write_shard

# A line of HASHES.
NOTED = re.compile(rf"^([0-9a-f]{{64}})  {SHARDS}/(shard-[0-9]+\.parquet)\n", re.MULTILINE)


class CacheWriter:
    """Writes one cache; the only one that may, as long as it lives. Use it in a `with` block.

    Raises OutputExists if the folder holds something else, CacheMismatch if it holds a capture of another plan,
    CacheError if another process is writing it, or if it holds a finished cache that is damaged.
    """

    def __init__(self, cache: Path, plan: Plan) -> None:
        self.cache = cache
        self.plan = plan
        self._shards: dict[int, Described] = {}
        self._finished: Manifest | None = None
        refuse_other_contents(cache, plan)
        self._make_folders()

    def __enter__(self) -> "CacheWriter":
        with refuse_full_disk(self.cache):
            self._lock = hold_cache_alone(self.cache)
        try:
            # Again, now that nobody else can change it.
            refuse_other_contents(self.cache, self.plan)
            if (self.cache / MANIFEST).exists():
                # Frozen: opening it checks every hash, and a damaged one is refused here, never mended in place.
                self._finished = LogitCache(self.cache).manifest
                self._forget_plan()
            else:
                self._shards = _described_shards(self.cache, self.plan)
                self._take_over()
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
        if self._finished:
            return []
        return [index for index in range(self.plan.shard_count) if index not in self._shards]

    def write(self, index: int, rows: Sequence[Row]) -> Shard:
        """Write shard `index` durably. rows: exactly those of `plan.shard_range(index)`, in order."""
        expected = self.plan.shard_range(index)
        if len(rows) != len(expected):
            raise ValueError(f"shard {index} takes {len(expected)} rows, got {len(rows)}")
        path = shard_path(self.cache, index)
        table = rows_to_table(rows, self.plan.fingerprint.top_k).replace_schema_metadata(footer(self.plan, index))
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with refuse_full_disk(self.cache):
            try:
                with open_new(temporary) as file:
                    write_shard(table, file)
                    file.flush()
                    os.fsync(file.fileno())
                described = describe_shard(temporary, self.plan, index)
                # Noted before the rename: a shard under its final name always has a hash to be held to.
                append(self.cache / HASHES, _noted(described.shard).encode())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)
        self._shards[index] = described
        return described.shard

    def publish(self, prefix: Prefix, provenance: Provenance, licence: str | None, sensitivity: str | None) -> Manifest:
        """Freeze the cache; one that is finished stays as it is. Raises CacheError as long as a shard is missing."""
        if self._finished:
            return self._finished
        if self.missing:
            raise CacheError(f"{self.cache} still lacks shards {self.missing[:5]}; it cannot be published.")
        described = [self._shards[index] for index in range(self.plan.shard_count)]
        shards = [each.shard for each in described]
        counts = {split: sum(each.splits.get(split, 0) for each in described) for split in SPLITS}
        manifest = Manifest(
            cache_id=cache_id(self.plan.fingerprint, (shard.sha256 for shard in shards)),
            fingerprint=self.plan.fingerprint,
            fingerprint_sha256=self.plan.fingerprint.digest(),
            prefix=prefix,
            splits={split: count for split, count in counts.items() if count},
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
            make_own_folder(shards)
            for folder in new:
                sync_folder(folder.parent)

    def _take_over(self) -> None:
        """Publish the plan, and remove what cannot be kept."""
        with refuse_full_disk(self.cache):
            if not (self.cache / PLAN).exists():
                write_json(self.cache / PLAN, self.plan.model_dump(mode="json"))
            for leftover in (self.cache / SHARDS).glob("*" + TEMPORARY_SUFFIX):
                remove_file(leftover)
            for index in self.missing:
                remove_file(shard_path(self.cache, index))
            lines = [_noted(each.shard) for _, each in sorted(self._shards.items())]
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
    return {index: each.shard for index, each in _described_shards(cache, plan).items()}


def hold_cache_alone(cache: Path) -> FolderLock:
    """Keep every other process from writing this cache. Raises CacheError if one does."""
    busy = CacheError(
        f"{cache} is being written by another process.",
        "Two writers would mix their shards, so this one stopped.",
        f"Wait for the other, or write elsewhere:  --out {cache}-2",
    )
    return hold_alone(cache, busy)


@contextmanager
def refuse_full_disk(cache: Path) -> Iterator[None]:
    """Turn "no room" into a CacheError that says what stays and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise CacheError(
            f"There is no room for {cache}: {error.strerror}.",
            "The shards that were finished stay as they are; nothing half-written counts.",
            "Make room, then give the same command again: it does only the rest.",
        ) from error


def _described_shards(cache: Path, plan: Plan) -> dict[int, Described]:
    noted = _noted_hashes(cache)
    found = ((index, _whole_shard(cache, plan, index, noted)) for index in range(plan.shard_count))
    return {index: each for index, each in found if each}


def _noted(shard: Shard) -> str:
    return f"{shard.sha256}  {SHARDS}/{shard.name}\n"


def _noted_hashes(cache: Path) -> dict[str, str]:
    """SHA-256 by shard name, as the capture noted them; empty if it had not come so far. A torn line does not count."""
    try:
        with open_plain(cache / HASHES) as file:
            text = file.read().decode("ascii", errors="replace")
    except (FileNotFoundError, DataError):
        return {}
    return {name: sha256 for sha256, name in NOTED.findall(text)}


def _whole_shard(cache: Path, plan: Plan, index: int, noted: dict[str, str]) -> Described | None:
    path = shard_path(cache, index)
    if path.name not in noted:
        return None
    try:
        described = describe_shard(path, plan, index)
    except CacheError:
        # Missing; or renamed after fsync and yet unreadable: the disk lied. Its rows can be captured again.
        return None
    return described if described.shard.sha256 == noted[path.name] else None
