"""Stage one, step three: the engine's continuations in, the rows of a frozen cache out, shard by shard.

The only place where the teacher meets the cache. It knows the order of work, what must never be written, and what to do
when the engine fails: less at once if memory is short, or else the name of the query that does it. Engines and files are
elsewhere.
"""

from collections.abc import Callable, Sequence

import numpy as np

from stages.errors import EngineError
from stages.language_model.engine import Continuation, Dtype, Engine, EngineOutOfMemory, refuse_log_probabilities
from stages.logit_cache.fingerprint import Fingerprint
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter
from stages.teacher.prompts import Prompt

# What engines raise over a prompt that they cannot take: an id outside the embedding, a prompt beyond the context.
FAULTS = (ValueError, IndexError, RuntimeError)
# A batch against its rows alone: the mean difference of the Top-K logits, as a share of the largest logit. Rounding, and in
# a mixture of experts an expert that rounding exchanges for another.
AGREEMENT: dict[Dtype, float] = {"float32": 2e-3, "bfloat16": 5e-2, "float16": 2e-2}
# The first comes from reading the prompt, the second from what was kept of it.
PROBED_POSITIONS = 2


def capture(
    engine: Engine,
    prompts: Sequence[Prompt],
    writer: CacheWriter,
    *,
    advance: Callable[[int], None] = lambda done: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Let the teacher speak on every prompt whose shard is missing, and write the shards.

    Greedy, up to `positions` tokens, stopping after the end-of-turn token. A shard is asked for by itself, so that it
    does not depend on which others were captured in the same run.
    advance: told how many prompts were finished since it was last called, less than 0 when a shard is asked for again.
    tell: given a line for the user.
    Raises EngineError if the engine gives anything but finite raw logits, other logits in a batch than alone, fewer
    candidates than K, or if it fails over
    a prompt, which is then named; EngineOutOfMemory if one prompt at a time is too many.
    """
    fingerprint = writer.plan.fingerprint
    _probe(engine, prompts[0])
    _probe_batch(engine, prompts, fingerprint, tell)
    for index in writer.missing:
        chosen = [prompts[row] for row in writer.plan.shard_range(index)]
        continuations = _ask(engine, chosen, fingerprint, advance, tell)
        writer.write(index, [teach(prompt, said) for prompt, said in zip(chosen, continuations, strict=True)])


def teach(prompt: Prompt, said: Continuation) -> Row:
    """Pair what the teacher said with the positions at which the student is to say it.

    The student reads its own prompt and then the teacher's tokens: the logits at its prompt's last token are taught by
    the teacher's first position, and so on.
    """
    if not np.isfinite(said.topk_logits).all():
        raise _not_finite(prompt)
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


def _probe(engine: Engine, prompt: Prompt) -> None:
    try:
        if np.isnan(engine.whole_vocabulary(prompt.teacher_ids)).any():
            raise _not_finite(prompt)
        refuse_log_probabilities(engine, prompt.teacher_ids)
    except FAULTS as error:
        raise _cannot_take(engine, prompt, error) from error


def _probe_batch(
    engine: Engine, prompts: Sequence[Prompt], fingerprint: Fingerprint, tell: Callable[[str], None]
) -> None:
    """Ask a few prompts in one batch, and each alone: what stands beside a row must not change it.

    Raises EngineError if the logits differ by more than rounding, as they do where an architecture does not bear how the
    engine batches its rows. The shortest, the longest and the first prompt: the first two meet all padding that there is.
    """
    by_length = sorted(prompts, key=lambda prompt: len(prompt.teacher_ids))
    chosen = [by_length[0], by_length[-1], prompts[0]]
    few = fingerprint.model_copy(update={"positions": min(fingerprint.positions, PROBED_POSITIONS)})
    for prompt, said in zip(chosen, _ask(engine, chosen, few, lambda done: None, tell), strict=True):
        if not np.isfinite(said.topk_logits).all():
            raise _not_finite(prompt)
        for place, (ids_K, logits_K) in enumerate(zip(said.topk_ids, said.topk_logits, strict=True)):
            alone_V = engine.whole_vocabulary([*prompt.teacher_ids, *said.token_ids[:place].tolist()])
            difference = np.abs(alone_V[ids_K] - logits_K).mean() / (np.abs(alone_V).max() or 1.0)
            if not difference <= AGREEMENT[fingerprint.dtype]:
                raise EngineError(
                    f"{engine.name} {engine.version} gives other logits in a batch than alone for example "
                    f"{prompt.example_id}: {prompt.query[:80]!r}, by {difference:.1%} at position {place + 1}.",
                    "A row of a cache must not depend on the rows beside it, so nothing was captured.",
                    "Ask one prompt at a time (--set model.batch_rows=1), or with the other engine (--set model.engine=…).",
                )


def _ask(
    engine: Engine,
    prompts: Sequence[Prompt],
    fingerprint: Fingerprint,
    advance: Callable[[int], None],
    tell: Callable[[str], None],
) -> list[Continuation]:
    """The shard's continuations, with half as many prompts in flight each time that memory runs out."""
    while True:
        done = 0

        def count(finished: int) -> None:
            nonlocal done
            done += finished
            advance(finished)

        try:
            return _continue(engine, prompts, fingerprint, count)
        except EngineOutOfMemory:
            if engine.batch_rows == 1:
                raise
        except FAULTS as error:
            raise _blame(engine, prompts, fingerprint, error) from error
        # Out here, where the error no longer holds on to the memory of what it interrupted.
        advance(-done)
        engine.batch_rows //= 2
        tell(f"Out of memory: asking again with {engine.batch_rows} prompts in flight (model.batch_rows).")


def _continue(
    engine: Engine,
    prompts: Sequence[Prompt],
    fingerprint: Fingerprint,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Continuation]:
    return engine.continue_greedily(
        [prompt.teacher_ids for prompt in prompts],
        max_tokens=fingerprint.positions,
        top_k=fingerprint.top_k,
        advance=advance,
    )


def _blame(engine: Engine, prompts: Sequence[Prompt], fingerprint: Fingerprint, error: Exception) -> EngineError:
    """The error that names the prompt over which the engine fails, found by halving the shard."""

    def fails(some: Sequence[Prompt]) -> bool:
        try:
            _continue(engine, some, fingerprint)
        except FAULTS:
            return True
        return False

    suspects = list(prompts)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if fails(half) else suspects[len(half) :]
    innocent = [prompt for prompt in prompts if prompt is not suspects[0]]
    # An engine that is broken for good fails over every prompt, and then none of them is to blame.
    if fails(suspects) and not (innocent and all(fails([prompt]) for prompt in (innocent[0], innocent[-1]))):
        return _cannot_take(engine, suspects[0], error)
    return EngineError(
        f"{engine.name} {engine.version} failed between the queries {prompts[0].query[:80]!r} and "
        f"{prompts[-1].query[:80]!r}, over none of them alone: {_first_line(error)}",
        "Nothing was written of their shard; those that were finished stay.",
        "Give the same command again; if it fails again, fewer at once:  --set model.batch_rows=1",
    )


def _cannot_take(engine: Engine, prompt: Prompt, error: Exception) -> EngineError:
    return EngineError(
        f"{engine.name} {engine.version} fails over example {prompt.example_id}: {prompt.query[:80]!r}: {_first_line(error)}",
        "Nothing was written of its shard; those that were finished stay.",
        "Leave the query out, or correct it.",
    )


def _not_finite(prompt: Prompt) -> EngineError:
    return EngineError(
        f"The teacher's logits are not finite for example {prompt.example_id}: {prompt.query[:80]!r}",
        "Nothing was written of its shard; those that were finished stay.",
        "Try another dtype (--set model.dtype=float32), or leave the query out.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
