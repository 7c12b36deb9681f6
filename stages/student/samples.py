"""Stage two, step one: which rows make up which batch.

Computed from (seed, step) and from nothing else: the same global batches for any number of processes, micro-batches or
shards, and O(1) to resume. The share of forget rows is the same in every batch.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from stages.errors import TrainingError

# Keeps the choice of held-out rows apart from the orders of the two splits.
HOLD_OUT = 2


class SampleStream:
    """An endless stream of global batches over the rows of a cache.

    forget: bool [rows], True where the row is in the forget set. batch_rows: B, over all processes.
    forget_share: share of forget rows in a batch; None takes the cache's own share.
    validation_share: share of each split that is held out, chosen by the seed: `validation_rows`, int64, never in a batch.
    Each split is walked in a fresh random order per pass, so a small split comes round more often than a large one
    if its share says so.
    Raises TrainingError if a batch cannot hold a row of both splits, or if the cache lacks one.
    """

    def __init__(
        self,
        forget: np.ndarray,
        *,
        batch_rows: int,
        seed: int,
        forget_share: float | None = None,
        validation_share: float = 0.0,
    ) -> None:
        held_out, self._rows = {}, {}
        for number, (split, chosen) in enumerate((("forget", forget), ("retain", ~forget))):
            rows = np.flatnonzero(chosen)
            count = round(validation_share * len(rows))
            order = _order(seed, HOLD_OUT + number, 0, len(rows))
            held_out[split], self._rows[split] = np.sort(rows[order[:count]]), np.sort(rows[order[count:]])
        self.validation_rows = np.concatenate(list(held_out.values()))
        trained = sum(map(len, self._rows.values()))
        for split, rows in self._rows.items():
            if not len(rows):
                raise TrainingError(
                    f"The cache has no {split} rows{' to train on' if validation_share else ''}.",
                    "Forgetting and retention go through one loss in one batch, so both are needed.",
                    "Capture or merge a cache that has both.",
                )
        if batch_rows < 2 or batch_rows > trained:
            raise TrainingError(
                f"A batch has {batch_rows} rows, the cache {trained}.",
                "A batch needs at least one forget and one retain row, and no more rows than the cache has.",
                "Set another size:  --set student.batch_rows=…",
            )
        share = len(self._rows["forget"]) / trained if forget_share is None else forget_share
        forget_rows = min(max(round(batch_rows * float(share)), 1), batch_rows - 1)
        self._per_batch = {"forget": forget_rows, "retain": batch_rows - forget_rows}
        self._seed = seed
        self.batch_rows = batch_rows
        self.steps_per_epoch = math.ceil(trained / batch_rows)

    def rows_of(self, step: int) -> np.ndarray:
        """int64 [B]: cache rows of global batch `step`, forget and retain rows spread evenly over it."""
        parts = []
        for number, (split, count) in enumerate(self._per_batch.items()):
            rows = self._rows[split]
            places = np.arange(step * count, (step + 1) * count)
            orders = {turn: _order(self._seed, number, int(turn), len(rows)) for turn in set(places // len(rows))}
            parts.append(np.array([rows[orders[place // len(rows)][place % len(rows)]] for place in places]))
        # Interleaved by their relative place, so that every contiguous slice, a process's or a micro-batch's, has its share.
        rank = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
        batch: np.ndarray = np.concatenate(parts)[np.argsort(rank, kind="stable")]
        return batch


def own_micro_batches(rows: np.ndarray, *, rank: int, world: int, micro_rows: int) -> Iterator[np.ndarray]:
    """The part of a global batch that process `rank` of `world` trains on, cut into micro-batches: int64 [micro_rows] each.

    rows: int64 [B] from `rows_of`; B is a multiple of world × micro_rows. Over all ranks every row comes once.
    """
    share = len(rows) // world
    own = rows[rank * share : (rank + 1) * share]
    for start in range(0, len(own), micro_rows):
        yield own[start : start + micro_rows]


@lru_cache(maxsize=8)
def _order(seed: int, split: int, turn: int, count: int) -> np.ndarray:
    # Bit generators are stable across numpy versions; Generator.permutation is not promised to be.
    keys = np.random.PCG64(np.random.SeedSequence([seed, split, turn])).random_raw(count)
    return np.argsort(keys, kind="stable")
