"""Sound caches to do harm to, in memory: by file name, the bytes. Small, and unlike each other in what a reader may meet."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from conftest import make_fingerprint, make_provenance, make_row

from stages.logit_cache import shard_files
from stages.logit_cache.fingerprint import sha256_json
from stages.logit_cache.manifest import MANIFEST, SHARDS, Prefix
from stages.logit_cache.plan import Plan
from stages.logit_cache.writer import CacheWriter

Files = dict[str, bytes]
ROWS, SHARD_ROWS = 12, 5


def make_bases(folder: Path) -> dict[str, Files]:
    """Each of them written there by the real writer, and read back."""
    return {
        "plain": _written(folder / "plain"),
        "wide": _written(folder / "wide", top_k=70, vocab_size=200),  # beyond checks.MOST_COMPARED
        "one candidate": _written(folder / "one", top_k=1, positions=1),
        "row groups": _written(folder / "groups", group_candidates=30),  # about two rows each
        "no text": _written(folder / "bare", text=False),
    }


def _written(folder: Path, *, text: bool = True, group_candidates: int | None = None, **changes: object) -> Files:
    fingerprint = make_fingerprint(ROWS, **changes)
    usual = shard_files.ROW_GROUP_CANDIDATES
    shard_files.ROW_GROUP_CANDIDATES = group_candidates or usual
    try:
        with CacheWriter(folder, Plan(fingerprint=fingerprint, rows=ROWS, shard_rows=SHARD_ROWS)) as writer:
            for index in writer.missing:
                rows = [make_row(row, fingerprint) for row in writer.plan.shard_range(index)]
                writer.write(index, rows if text else [replace(row, query="") for row in rows])
            writer.publish(Prefix(text="prefix", token_ids=[1, 2]), make_provenance(SHARD_ROWS), None, None)
    finally:
        shard_files.ROW_GROUP_CANDIDATES = usual
    names = [MANIFEST, *(f"{SHARDS}/{path.name}" for path in sorted((folder / SHARDS).iterdir()))]
    return {name: (folder / name).read_bytes() for name in names}


def shard_names(files: Files) -> list[str]:
    return sorted(name for name in files if name.startswith(SHARDS))


def vouched(files: Files, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> Files:
    """The manifest agrees with the shards' bytes as they now are, and with itself; change: made before it is hashed."""
    raw = json.loads(files[MANIFEST])
    for shard in raw["shards"]:
        content = files[f"{SHARDS}/{shard['name']}"]
        shard.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    change(raw)
    return {**files, MANIFEST: json.dumps(rehashed(raw)).encode()}


def rehashed(raw: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its own hashes renewed, as far as it still has the parts that are hashed."""
    try:
        raw["fingerprint_sha256"] = sha256_json(raw["fingerprint"])
        hashes = [shard["sha256"] for shard in raw["shards"]]
        raw["cache_id"] = sha256_json({"fingerprint": raw["fingerprint_sha256"], "shards": hashes})
    except (KeyError, TypeError, UnicodeEncodeError, ValueError, RecursionError):
        pass  # what was to be hashed was harmed itself
    return raw


def table_of(content: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(content), use_threads=False)
