"""Made-up rows as large as real ones, and caches of them, for the benchmarks of the cache and of training."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import make_fingerprint, make_provenance

from stages.logit_cache.manifest import Prefix
from stages.logit_cache.plan import Plan
from stages.logit_cache.rows import Row, example_id
from stages.logit_cache.writer import CacheWriter

SEED = 0
VOCABULARY, POSITIONS = 49152, 16


def made_up_rows(count: int, top_k: int) -> list[Row]:
    """Rows as large as real ones: 16 positions, 30 tokens of query, logits that bfloat16 can hold."""
    rng = np.random.default_rng(SEED)
    rows = []
    for index in range(count):
        ids = np.stack([rng.permutation(VOCABULARY)[:top_k] for _ in range(POSITIONS)]).astype(np.int32)
        steps = 1 + rng.geometric(0.4, (POSITIONS, top_k))
        logits = (25 - np.cumsum(steps, axis=1) * 0.125).astype(np.float32)
        rows.append(
            Row(
                example_id=example_id(f"query {index}"),
                split="retain",
                query=f"query {index}",
                student_input_ids=rng.integers(0, VOCABULARY, 30, dtype=np.int32),
                response_ids=ids[:, 0],
                student_positions=np.arange(29, 29 + POSITIONS, dtype=np.int32),
                topk_ids=ids,
                topk_logits=logits,
            )
        )
    return rows


def write(folder: Path, rows: list[Row], shards: int, **changes: object) -> float:
    """Write the rows once per shard, each time as other examples; returns processor seconds. changes: to the fingerprint."""
    top_k = rows[0].topk_ids.shape[1]
    fingerprint = make_fingerprint(top_k=top_k, positions=POSITIONS, vocab_size=VOCABULARY, **changes)
    seconds = 0.0
    with CacheWriter(folder, Plan(fingerprint=fingerprint, rows=len(rows) * shards, shard_rows=len(rows))) as writer:
        for index in writer.missing:
            own = [
                replace(row, query=query, example_id=example_id(query))
                for row in rows
                if (query := f"{index} {row.query}")
            ]
            began = time.process_time()
            writer.write(index, own)
            seconds += time.process_time() - began
        writer.publish(Prefix(text="", token_ids=[]), make_provenance(len(rows)), None, None)
    return seconds
