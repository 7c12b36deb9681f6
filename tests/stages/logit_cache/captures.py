"""Captures of made-up rows by the real writer: 20 rows in shards of 8, 8 and 4."""

from pathlib import Path

from conftest import make_fingerprint, make_row

from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.plan import Plan
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter


def make_plan(**changes: object) -> Plan:
    return Plan(fingerprint=make_fingerprint(**changes), rows=20, shard_rows=8)


def rows_of(writer: CacheWriter, index: int) -> list[Row]:
    return [make_row(row, writer.plan.fingerprint) for row in writer.plan.shard_range(index)]


def begin(cache: Path, shards: int) -> None:
    """A capture that was stopped in an orderly way after some shards."""
    with CacheWriter(cache, make_plan()) as writer:
        for index in range(shards):
            writer.write(index, rows_of(writer, index))


def contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((cache / SHARDS).iterdir())}
