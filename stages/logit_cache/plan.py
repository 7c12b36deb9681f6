"""What a capture sets out to do, and whether a folder may hold it."""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from stages.errors import CacheError, CacheMismatch, DuetError, OutputExists
from stages.files import TEMPORARY_SUFFIX, open_plain
from stages.folder_lock import LOCK
from stages.logit_cache.fingerprint import Fingerprint
from stages.logit_cache.manifest import MANIFEST, PLAN, SHARDS, extra_files, read_manifest, shard_name
from stages.untrusted_json import MOST_BYTES, Malformed, parse_model

# Of a shard a manifest says 400 bytes, and no manifest above 8 MiB is read.
MOST_SHARDS = 16_000


class Plan(BaseModel):
    """What a capture set out to do, published before its first shard so that a rerun can be held to it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    fingerprint: Fingerprint
    rows: int = Field(ge=1, description="Rows of the whole cache.")
    shard_rows: int = Field(ge=1, description="Rows of every shard but the last.")

    @property
    def shard_count(self) -> int:
        return math.ceil(self.rows / self.shard_rows)

    def shard_range(self, index: int) -> range:
        """Row indices of shard `index`."""
        return range(index * self.shard_rows, min((index + 1) * self.shard_rows, self.rows))


def refuse_other_contents(cache: Path, plan: Plan) -> None:
    """Raise OutputExists if the folder holds anything but a capture, CacheMismatch if it is one of another plan.

    Raises CacheError for a plan whose manifest nobody could read.
    """
    if plan.shard_count > MOST_SHARDS:
        raise CacheError(
            f"{plan.rows:,} rows in shards of {plan.shard_rows:,} are {plan.shard_count:,} shards.",
            f"A cache has at most {MOST_SHARDS:,}, so nothing was written.",
            f"Capture larger ones:  --set teacher.shard_rows={math.ceil(plan.rows / MOST_SHARDS)}",
        )
    if not cache.exists():
        return
    names = {entry.name for entry in cache.iterdir()} if cache.is_dir() else {"a file"}
    if MANIFEST in names:
        finished = read_manifest(cache)
        _refuse_other_plan(cache, plan, finished.fingerprint, finished.provenance.shard_rows, "holds a finished cache")
    elif PLAN in names:
        try:
            with open_plain(cache / PLAN) as file:
                begun = parse_model(Plan, file.read(MOST_BYTES + 1))
        except (Malformed, DuetError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise CacheError(
                f"{cache / PLAN} is not a capture plan: it is {reason}.",
                "What was captured there cannot be held to its plan, so nothing was written.",
                "Name another folder with --out (make: CACHE=…), or move that one away.",
            ) from error
        _refuse_other_plan(cache, plan, begun.fingerprint, begun.shard_rows, "holds an unfinished capture")
    elif names - {LOCK, SHARDS, PLAN + TEMPORARY_SUFFIX}:
        raise OutputExists(
            f"{cache} already holds something that is not a logit cache.",
            "Nothing was written there.",
            "Name another folder with --out (make: CACHE=…), or move that one away.",
        )
    # Now rather than after hours of work: no reader would take the cache.
    if MANIFEST not in names and (extra := extra_files(cache, map(shard_name, range(plan.shard_count)))):
        raise OutputExists(
            f"{extra[0]} is no part of the cache that is to lie there; {len(extra)} such files do.",
            "A cache holds what its manifest names and nothing else, so nothing was written.",
            "Move them elsewhere, or name another folder with --out (make: CACHE=…).",
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
