"""A cache in, all its faults out: every hash, every row, every footer, and what is there that should not be.

Opening a cache stops at the first fault; this goes on, shard by shard, with one row group in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from stages.errors import CacheError
from stages.logit_cache.fingerprint import PromptHash
from stages.logit_cache.manifest import MANIFEST, Manifest, Shard, read_manifest
from stages.logit_cache.reader import check_file, extra_files, open_shard, read_group
from stages.logit_cache.rows import ragged, ragged_matrix
from stages.logit_cache.shard_files import FINGERPRINT_KEY, FIRST_ROW_KEY, ROWS_KEY

# Sums of float32 logits in another order differ in the last digits.
MEAN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fault:
    """Where, and what is wrong there. shard: its name, or "manifest.json"."""

    shard: str
    message: str


def faults(folder: Path, *, advance: Callable[[int], None] = lambda done: None) -> Iterator[Fault]:
    """Every fault of a finished cache; none at all if it is what was captured.

    advance: told once per shard.
    Raises CacheError if there is no readable manifest, without which there is no cache to speak of.
    """
    manifest = read_manifest(folder)
    for path in extra_files(folder, manifest):
        yield Fault(path.name, "is not in the manifest")
    seen: dict[str, str] = {}
    prompts: PromptHash | None = PromptHash()
    for shard in manifest.shards:
        try:
            yield from _shard_faults(folder, manifest, shard, seen, prompts)
        except CacheError as error:
            prompts = None  # not all of them can be read
            yield Fault(shard.name, error.found)
        advance(1)
    promised = manifest.fingerprint.student_prompts_sha256
    if prompts and promised and prompts.hexdigest() != promised:
        yield Fault(MANIFEST, "names other student prompts (student_prompts_sha256) than stand in the rows")


def _shard_faults(
    folder: Path, manifest: Manifest, shard: Shard, seen: dict[str, str], prompts: PromptHash | None
) -> Iterator[Fault]:
    check_file(folder, shard)
    file, groups = open_shard(folder, shard, manifest.fingerprint)
    yield from _footer_faults(file, manifest, shard)
    positions, total, least, most = 0, 0.0, np.inf, -np.inf
    for group in range(len(groups)):
        table = read_group(file, group, shard, manifest.fingerprint)
        for row, example in enumerate(table["example_id"].to_pylist()):
            where = f"{shard.name}, row group {group}, row {row}"
            if example in seen:
                yield Fault(shard.name, f"{where} repeats example {example} of {seen[example]}")
            seen[example] = where
        if prompts:
            ids, offsets = ragged(table["student_input_ids"])
            for start, end in pairwise(offsets):
                prompts.add(ids[start:end])
        logits_PK, _ = ragged_matrix(table["topk_logits"])
        positions += len(logits_PK)
        total += float(logits_PK.sum(dtype=np.float64))
        least, most = min(least, float(logits_PK.min())), max(most, float(logits_PK.max()))
    if positions != shard.positions:
        yield Fault(shard.name, f"holds {positions} positions, the manifest says {shard.positions}")
    mean = total / (positions * manifest.fingerprint.top_k)
    if (least, most) != (shard.logit_min, shard.logit_max) or abs(mean - shard.logit_mean) > MEAN_TOLERANCE:
        yield Fault(shard.name, "has other extremes or another mean than the manifest says")


def _footer_faults(file: pq.ParquetFile, manifest: Manifest, shard: Shard) -> Iterator[Fault]:
    footer = file.schema_arrow.metadata or {}
    if footer.get(FINGERPRINT_KEY) != manifest.fingerprint_sha256.encode():
        yield Fault(shard.name, "belongs to another capture: its footer has another fingerprint")
    if footer.get(FIRST_ROW_KEY) != str(shard.first_row).encode():
        yield Fault(shard.name, f"stands in the wrong place: its footer does not say row {shard.first_row}")
    # The first caches of version 1 lack it.
    if footer.get(ROWS_KEY, str(shard.rows).encode()) != str(shard.rows).encode():
        yield Fault(shard.name, f"is not whole: its footer does not say {shard.rows} rows")
