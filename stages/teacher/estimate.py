"""How large a cache will become, known before the teacher is loaded.

Prompts, a plan and the shards that are done in; rows, positions and bytes out. Runs no model and writes nothing.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.logit_cache.manifest import Shard
from stages.logit_cache.plan import Plan
from stages.logit_cache.rows import Row, rows_to_table
from stages.logit_cache.shard_files import write_shard
from stages.teacher.prompts import Prompt

# Compressed bytes per candidate at K = 20, measured on SmolLM2 (vocabulary 49 152) by the shard writer. A first position
# repeats the ids of other queries on its topic. Twice the K: logits stand closer (minus), ids are rarer tokens (plus).
LOGIT_BYTES = {"float32": 3.0, "float16": 1.4, "bfloat16": 0.9}
FEWEST_LOGIT_BYTES = 0.2
LOGIT_BYTES_PER_DOUBLING = -0.17
FIRST_ID_BYTES, LATER_ID_BYTES = 1.3, 1.55
ID_BYTES_PER_DOUBLING = 0.08
RESPONSE_ID_BYTES = 1.5
# The bytes of queries and footers come from writing this many shards to memory.
SAMPLED_SHARDS = 4


@dataclass(frozen=True)
class Forecast:
    """What a finished capture will hold.

    positions_at_most: rows × T; answers that end early have fewer. positions_per_row: the mean over the shards that are
    done, None if none is. bytes: of all shards, an estimate until all are done.
    """

    rows: int
    positions_at_most: int
    positions_per_row: float | None
    bytes: int


def forecast(prompts: Sequence[Prompt], plan: Plan, done: Mapping[int, Shard]) -> Forecast:
    """What the capture will hold, from the shards that are done as far as there are any.

    prompts: all of the plan, in order. done: finished shards by index.
    """
    rows, positions = len(prompts), plan.fingerprint.positions
    rows_done = sum(shard.rows for shard in done.values())
    bytes_done = sum(shard.bytes for shard in done.values())
    return Forecast(
        rows=rows,
        positions_at_most=rows * positions,
        positions_per_row=sum(shard.positions for shard in done.values()) / rows_done if rows_done else None,
        bytes=round(bytes_done / rows_done * rows) if rows_done else _estimate(prompts, plan),
    )


def _estimate(prompts: Sequence[Prompt], plan: Plan) -> int:
    count = plan.shard_count
    sampled = sorted({round(place) for place in np.linspace(0, count - 1, min(count, SAMPLED_SHARDS))})
    chosen = [[prompts[row] for row in plan.shard_range(index)] for index in sampled]
    sampled_rows = sum(map(len, chosen))
    without_candidates = sum(_bytes_without_candidates(each, plan) for each in chosen) / sampled_rows
    top_k, positions = plan.fingerprint.top_k, plan.fingerprint.positions
    doublings = math.log2(top_k / 20)
    logit = max(LOGIT_BYTES[plan.fingerprint.dtype] + LOGIT_BYTES_PER_DOUBLING * doublings, FEWEST_LOGIT_BYTES)
    token = (FIRST_ID_BYTES if positions == 1 else LATER_ID_BYTES) + ID_BYTES_PER_DOUBLING * doublings
    return round(len(prompts) * (without_candidates + positions * (RESPONSE_ID_BYTES + top_k * (logit + token))))


def _bytes_without_candidates(prompts: Sequence[Prompt], plan: Plan) -> int:
    """Bytes of a shard of these prompts whose candidates are all zero, which compress to nothing."""
    positions, top_k = plan.fingerprint.positions, plan.fingerprint.top_k
    rows = [
        Row(
            example_id=prompt.example_id,
            split=prompt.split,
            query=prompt.query,
            student_input_ids=np.array(prompt.student_ids, dtype=np.int32),
            response_ids=np.zeros(positions, dtype=np.int32),
            student_positions=np.arange(positions, dtype=np.int32) + len(prompt.student_ids) - 1,
            topk_ids=np.zeros((positions, top_k), dtype=np.int32),
            topk_logits=np.zeros((positions, top_k), dtype=np.float32),
        )
        for prompt in prompts
    ]
    buffer = io.BytesIO()
    write_shard(rows_to_table(rows, top_k), buffer)
    return buffer.tell()
