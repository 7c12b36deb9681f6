"""Several caches of one teacher in, one cache out: all their topics, each example once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stages.errors import CacheMismatch
from stages.logit_cache.fingerprint import Fingerprint, PromptHash, sha256_json
from stages.logit_cache.manifest import Manifest, Prefix
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.logit_cache.slicing import derived
from stages.logit_cache.writer import CacheWriter

# Topics may differ in these alone.
PER_TOPIC = ("prefix_sha256", "forget_sha256", "retain_sha256", "student_prompts_sha256", "teacher_prompts_sha256")
MOST_SHOWN = 10
# Logit units; what another batch or another engine changes in float32.
ROUNDING = 1e-3


def merge_caches(
    caches: Sequence[LogitCache],
    out: Path,
    *,
    command: list[str],
    duet_version: str,
    advance: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Write the rows of all caches to `out`, in the order of the caches, and return its manifest.

    An example that several caches hold alike, up to rounding, is kept once, where it comes first.
    Raises CacheMismatch if the caches have another teacher, K, dtype or the like, or if an example stands in two of
    them with different contents (another prefix, say), naming the examples.
    """
    fingerprint = merged_fingerprint(caches)
    kept, student_prompts = _places(caches)
    if fingerprint.student_prompts_sha256 is not None:
        fingerprint = fingerprint.model_copy(update={"student_prompts_sha256": student_prompts})
    first = caches[0].manifest
    plan = Plan(fingerprint=fingerprint, rows=len(kept), shard_rows=first.provenance.shard_rows)
    with CacheWriter(out, plan) as writer:
        for index in writer.missing:
            places = [kept[row] for row in writer.plan.shard_range(index)]
            writer.write(index, [caches[number].row(row) for number, row in places])
            advance(len(places))
        manifests = [cache.manifest for cache in caches]
        return writer.publish(
            _merged_prefix(manifests),
            derived(first, command, duet_version, *manifests[1:]),
            _joined([each.licence for each in manifests]),
            _joined([each.sensitivity for each in manifests]),
        )


def merged_fingerprint(caches: Sequence[LogitCache]) -> Fingerprint:
    """The fingerprint that all share; where topics differ, the hash over the sorted hashes of the topics.

    Of the students' prompts the hash follows from the merged rows, which are not looked at here.

    Raises CacheMismatch if anything else differs.
    """
    prints = [cache.manifest.fingerprint for cache in caches]
    first = prints[0]
    for cache, other in zip(caches[1:], prints[1:], strict=True):
        differing = [line for line in first.differences(other) if not line.startswith(PER_TOPIC)]
        if differing:
            raise CacheMismatch(
                f"{caches[0].folder} and {cache.folder} differ in\n    " + "\n    ".join(differing),
                "Rows of two such caches would not mean the same to a student.",
                "Slice one to the other's K and positions (duet cache slice), or capture it again.",
            )
    joined = {}
    for field in PER_TOPIC:
        hashes = sorted({getattr(each, field) for each in prints} - {None})
        joined[field] = sha256_json(hashes) if len(hashes) > 1 else next(iter(hashes), None)
    return first.model_copy(update=joined)


def _places(caches: Sequence[LogitCache]) -> tuple[list[tuple[int, int]], str]:
    """(cache, row) of every example, once, where it comes first, and the hash of their student prompts.

    No cache is ever in memory.
    """
    first: dict[str, tuple[int, int]] = {}
    prompts = PromptHash()
    conflicts: list[str] = []
    for number, cache in enumerate(caches):
        for index, row in enumerate(cache.rows()):
            earlier, place = first.setdefault(row.example_id, (number, index))
            if (earlier, place) == (number, index):
                prompts.add(row.student_input_ids)
            elif not agree(caches[earlier].row(place), row):
                conflicts.append(f"{row.example_id}: {row.query[:80]!r} ({row.split} in {cache.folder})")
    if conflicts:
        more = f"\n    and {len(conflicts) - MOST_SHOWN} more" if len(conflicts) > MOST_SHOWN else ""
        raise CacheMismatch(
            f"{len(conflicts)} examples stand in two of the caches with different contents:\n    "
            + "\n    ".join(conflicts[:MOST_SHOWN])
            + more,
            "The student would be taught two things for one query, so nothing was written.",
            "Leave these queries out of one of the topics and capture that one again.",
        )
    return list(first.values()), prompts.hexdigest()


def agree(one: Row, other: Row) -> bool:
    """Whether two rows of one example teach the same.

    Two captures of the same prompt differ in the last digits of their logits, and so perhaps in the order of near ties.
    """
    if (one.split, one.query) != (other.split, other.query) or one.topk_logits.shape != other.topk_logits.shape:
        return False
    same_tokens = np.array_equal(one.student_input_ids, other.student_input_ids) and np.array_equal(
        one.response_ids, other.response_ids
    )
    if not same_tokens or not np.allclose(one.topk_logits, other.topk_logits, rtol=0, atol=ROUNDING):
        return False
    for t in range(len(one.topk_ids)):
        _, mine, theirs = np.intersect1d(one.topk_ids[t], other.topk_ids[t], assume_unique=True, return_indices=True)
        if not np.allclose(one.topk_logits[t][mine], other.topk_logits[t][theirs], rtol=0, atol=ROUNDING):
            return False
    return True


def _merged_prefix(manifests: Sequence[Manifest]) -> Prefix:
    distinct = list({each.prefix.text: each.prefix for each in manifests}.values())
    if len(distinct) == 1:
        return distinct[0]
    # No single run of tokens stands before every query any more.
    return Prefix(text="\n\n----\n\n".join(prefix.text for prefix in distinct), token_ids=[])


def _joined(values: Sequence[str | None]) -> str | None:
    return "; ".join(dict.fromkeys(value for value in values if value)) or None
