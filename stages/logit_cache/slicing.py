"""A frozen cache in, a smaller one out: fewer candidates, fewer positions, no teacher.

Candidates are sorted and positions are in order, so the first ones of each row are what a smaller capture gives. The
result therefore has the fingerprint, and the rows, of that capture.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from stages.errors import CacheError
from stages.logit_cache.manifest import Manifest, Provenance
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.writer import CacheWriter


def slice_cache(
    cache: LogitCache,
    out: Path,
    *,
    top_k: int,
    positions: int,
    command: list[str],
    duet_version: str,
    advance: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Write the cache at top_k candidates and at most `positions` positions to `out`, and return its manifest.

    A call that was interrupted goes on where it stopped. advance: told how many rows were written since the last call.
    Raises CacheError if more is asked for than the cache holds.
    """
    source = cache.manifest
    for name, asked, held in (
        ("candidates (K)", top_k, source.fingerprint.top_k),
        ("positions (T)", positions, source.fingerprint.positions),
    ):
        if not 1 <= asked <= held:
            raise CacheError(
                f"{cache.folder} holds {held} {name}, {asked} were asked for.",
                "A slice can only leave things out; what was not captured needs the teacher.",
                f"Ask for 1 to {held}, or capture more:  make teacher-cache CONFIG=… CACHE=…",
            )
    fingerprint = source.fingerprint.model_copy(update={"top_k": top_k, "positions": positions})
    shard_rows = source.provenance.shard_rows
    with CacheWriter(out, Plan(fingerprint=fingerprint, rows=source.rows, shard_rows=shard_rows)) as writer:
        for index in writer.missing:
            chosen = [cache.row(row) for row in writer.plan.shard_range(index)]
            writer.write(index, [row.first(positions=positions, top_k=top_k) for row in chosen])
            advance(len(chosen))
        return writer.publish(source.prefix, derived(source, command, duet_version), source.licence, source.sensitivity)


def derived(source: Manifest, command: list[str], duet_version: str, *others: Manifest) -> Provenance:
    """Provenance of a cache that was made from others without a teacher: the first one's engine, and all their ids."""
    return source.provenance.model_copy(
        update={
            "command": command,
            "duet_version": duet_version,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "derived_from": [each.cache_id for each in (source, *others)],
        }
    )
