"""Stage one, step three: the engine's continuations in, the rows of a frozen cache out, shard by shard.

The only place where the teacher meets the cache. It knows the order of work and what must never be written; engines and
files are elsewhere.
"""

from collections.abc import Callable, Sequence

import numpy as np

from stages.errors import EngineError
from stages.language_model.engine import Continuation, Engine, refuse_log_probabilities
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter
from stages.teacher.prompts import Prompt


def capture(
    engine: Engine,
    prompts: Sequence[Prompt],
    writer: CacheWriter,
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Let the teacher speak on every prompt whose shard is missing, and write the shards.

    Greedy, up to `positions` tokens, stopping after the end-of-turn token.
    Raises EngineError if the engine gives anything but raw logits, or fewer candidates than K.
    """
    fingerprint = writer.plan.fingerprint
    refuse_log_probabilities(engine, prompts[0].teacher_ids)
    for index in writer.missing:
        chosen = [prompts[row] for row in writer.plan.shard_range(index)]
        continuations = engine.continue_greedily(
            [prompt.teacher_ids for prompt in chosen],
            max_tokens=fingerprint.positions,
            top_k=fingerprint.top_k,
            advance=advance,
        )
        writer.write(index, [teach(prompt, said) for prompt, said in zip(chosen, continuations, strict=True)])


def teach(prompt: Prompt, said: Continuation) -> Row:
    """Pair what the teacher said with the positions at which the student is to say it.

    The student reads its own prompt and then the teacher's tokens: the logits at its prompt's last token are taught by
    the teacher's first position, and so on.
    """
    if not np.isfinite(said.topk_logits).all():
        raise EngineError(
            f"The teacher's logits are not finite for example {prompt.example_id}: {prompt.query[:80]!r}",
            "Nothing was written of its shard.",
            "Try another dtype (--set model.dtype=float32), or leave the query out.",
        )
    first = len(prompt.student_ids) - 1
    return Row(
        example_id=prompt.example_id,
        split=prompt.split,
        query=prompt.query,
        student_input_ids=np.array(prompt.student_ids, dtype=np.int32),
        response_ids=said.token_ids,
        student_positions=np.arange(first, first + len(said.token_ids), dtype=np.int32),
        topk_ids=said.topk_ids,
        topk_logits=said.topk_logits,
    )
