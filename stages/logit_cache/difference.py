"""Two caches of the same queries in, what the one teacher says otherwise than the other out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from stages.errors import CacheMismatch
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row

SCHEMA: dict[str, Any] = {
    "example_id": pl.String,
    "split": pl.String,
    "query": pl.String,
    "positions": pl.Int32,
    "mean_shift": pl.Float64,
    "mean_abs_shift": pl.Float64,
    "max_abs_shift": pl.Float64,
    "least_shift": pl.Float64,
    "greatest_shift": pl.Float64,
    "overlap": pl.Float64,
    "same_answer": pl.Boolean,
    "entered": pl.List(pl.Int32),
    "left": pl.List(pl.Int32),
}


def difference(
    one: LogitCache, other: LogitCache, *, advance: Callable[[int], None] = lambda done: None
) -> pl.DataFrame:
    """One row per example that both hold: how the logits shift from one to the other.

    Compared are the positions up to the first at which the two teachers have said different tokens, since from there
    on they read different texts. mean_shift, mean_abs_shift, max_abs_shift, least_shift, greatest_shift: other − one in
    logit units, over the candidates that both list (null if there are none). overlap: share of one's candidates that the
    other lists, too. entered, left: ids at the first position that only the other, or only the one, lists, in its order.
    Raises CacheMismatch if the token ids do not mean the same, or if no example is in both.
    """
    if one.manifest.fingerprint.tokenizer_sha256 != other.manifest.fingerprint.tokenizer_sha256:
        raise CacheMismatch(
            f"{one.folder} and {other.folder} were written with different tokenizers.",
            "Their ids name different tokens, so there is nothing to compare.",
        )
    places = {row.example_id: index for index, row in enumerate(one.rows())}
    records = []
    for row in other.rows():
        if row.example_id in places:
            records.append(compare(one.row(places[row.example_id]), row))
            advance(1)
    if not records:
        raise CacheMismatch(
            f"{one.folder} and {other.folder} have no example in common.", "Caches of the same queries were needed."
        )
    return pl.DataFrame(records, schema=SCHEMA)


def compare(one: Row, other: Row) -> dict[str, Any]:
    """One row of `difference`."""
    shared = min(len(one.response_ids), len(other.response_ids))
    apart = np.flatnonzero(one.response_ids[:shared] != other.response_ids[:shared])
    positions = int(apart[0]) + 1 if len(apart) else shared
    shifts: list[np.ndarray] = []
    common_count = 0
    for t in range(positions):
        _, mine, theirs = np.intersect1d(one.topk_ids[t], other.topk_ids[t], assume_unique=True, return_indices=True)
        shifts.append(other.topk_logits[t][theirs].astype(np.float64) - one.topk_logits[t][mine])
        common_count += len(mine)
    shift = np.concatenate(shifts)
    before, after = one.topk_ids[0].tolist(), other.topk_ids[0].tolist()
    return {
        "example_id": one.example_id,
        "split": one.split,
        "query": one.query,
        "positions": positions,
        "mean_shift": float(shift.mean()) if len(shift) else None,
        "mean_abs_shift": float(np.abs(shift).mean()) if len(shift) else None,
        "max_abs_shift": float(np.abs(shift).max()) if len(shift) else None,
        "least_shift": float(shift.min()) if len(shift) else None,
        "greatest_shift": float(shift.max()) if len(shift) else None,
        "overlap": common_count / (positions * one.topk_ids.shape[1]),
        "same_answer": bool(np.array_equal(one.response_ids, other.response_ids)),
        "entered": [token for token in after if token not in before],
        "left": [token for token in before if token not in after],
    }


def summary(shifts: pl.DataFrame) -> pl.DataFrame:
    """Means and extremes of `difference` per split."""
    return shifts.group_by("split", maintain_order=True).agg(
        examples=pl.len(),
        mean_abs_shift=pl.col("mean_abs_shift").mean(),
        max_abs_shift=pl.col("max_abs_shift").max(),
        least_shift=pl.col("least_shift").min(),
        greatest_shift=pl.col("greatest_shift").max(),
        overlap=pl.col("overlap").mean(),
        same_answer=pl.col("same_answer").mean(),
    )
