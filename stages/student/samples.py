"""Stage two, step one: which rows make up which batch.

Computed from (seed, step) and from nothing else: the same global batches for any number of processes, micro-batches or
shards, and O(1) to resume. The share of forget rows is the same in every batch.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from stages.errors import TrainingError

# Keep the choice of held-out rows, and the order of grouped batches, apart from the orders of the two splits.
HOLD_OUT = 2
BATCHES = 4
# Rows whose lengths differ by fewer tokens are of like length.
LIKE_TOKENS = 16


class SampleStream:
    """An endless stream of global batches over the rows of a cache.

    forget: bool [rows], True where the row is in the forget set. batch_rows: B, over all processes.
    forget_share: share of forget rows in a batch; None takes the cache's own share.
    validation_share: share of each split that is held out, chosen by the seed: `validation_rows`, int64, never in a batch.
    left_out: bool [rows], True where the row is neither trained on nor held out; None: nowhere.
    Each split is walked in a fresh random order per pass, so a small split comes round more often than a large one
    if its share says so.
    Raises TrainingError if a batch cannot hold a row of both splits, if the cache lacks one, or if a share holds none out.
    """

    def __init__(
        self,
        forget: np.ndarray,
        *,
        batch_rows: int,
        seed: int,
        forget_share: float | None = None,
        validation_share: float = 0.0,
        left_out: np.ndarray | None = None,
    ) -> None:
        used = np.ones(len(forget), dtype=bool) if left_out is None else ~left_out
        held_out, self._rows = {}, {}
        for number, (split, chosen) in enumerate((("forget", forget), ("retain", ~forget))):
            held_out[split], self._rows[split] = _hold_out(
                np.flatnonzero(chosen & used), seed, number, validation_share
            )
        self.validation_rows = np.concatenate(list(held_out.values()))
        trained = sum(map(len, self._rows.values()))
        for split, rows in self._rows.items():
            if not len(rows):
                raise TrainingError(
                    f"The cache has no {split} rows{' to train on' if validation_share or not used.all() else ''}.",
                    "Forgetting and retention go through one loss in one batch, so both are needed.",
                    "Capture or merge a cache that has both."
                    if used.all()
                    else "Leave fewer rows out (student.response_filter), or capture behind another prefix.",
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
            parts.append(_walk(self._rows[split], self._seed, number, step * count, count))
        # Interleaved by their relative place, so that every contiguous slice, a process's, has its share.
        rank = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
        batch: np.ndarray = np.concatenate(parts)[np.argsort(rank, kind="stable")]
        return batch


class PooledStream:
    """The same over rows of one kind: `count` rows, walked in a fresh random order per pass.

    tokens: int64 [count]; with them each batch holds rows of like length, and the batches of a pass come in random order.
    Raises TrainingError if there are fewer rows than a batch takes.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_rows: int,
        seed: int,
        validation_share: float = 0.0,
        tokens: np.ndarray | None = None,
    ) -> None:
        self.validation_rows, self._rows = _hold_out(np.arange(count), seed, 0, validation_share)
        if batch_rows > len(self._rows):
            raise TrainingError(
                f"A batch has {batch_rows} rows, and there are {len(self._rows)} to train on.",
                "A batch that holds a row twice would not be the batch that was asked for.",
                "Set a smaller batch_rows.",
            )
        self._seed, self._tokens = seed, tokens
        self.batch_rows = batch_rows
        self.steps_per_epoch = math.ceil(len(self._rows) / batch_rows)

    def rows_of(self, step: int) -> np.ndarray:
        """int64 [B]: rows of global batch `step`."""
        if self._tokens is None:
            return _walk(self._rows, self._seed, 0, step * self.batch_rows, self.batch_rows)
        # An epoch's batches together are the next rows of the walk, so that every row comes as often as without groups.
        turn, place = divmod(step, self.steps_per_epoch)
        count = self.steps_per_epoch * self.batch_rows
        rows = _walk(self._rows, self._seed, 0, turn * count, count)
        alike = rows[np.argsort(self._tokens[rows] // LIKE_TOKENS, kind="stable")]
        batch: np.ndarray = alike.reshape(-1, self.batch_rows)[
            _order(self._seed, BATCHES, turn, self.steps_per_epoch)[place]
        ]
        return batch


def own_micro_batches(
    rows: np.ndarray, tokens: np.ndarray, *, rank: int, world: int, micro_rows: int
) -> Iterator[np.ndarray]:
    """The part of a global batch that process `rank` of `world` trains on, cut into micro-batches: int64 [micro_rows] each.

    rows: int64 [B] from `rows_of`; B is a multiple of world × micro_rows. Over all ranks every row comes once.
    tokens: int64, of every row there is. The longest rows of the part stand in its first micro-batch, and so on, so that
    little is padded, and a batch that does not fit into memory says so at once.
    """
    share = len(rows) // world
    own = rows[rank * share : (rank + 1) * share]
    own = own[np.argsort(-tokens[own], kind="stable")]
    for start in range(0, len(own), micro_rows):
        yield own[start : start + micro_rows]


def _hold_out(rows: np.ndarray, seed: int, number: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are held out and those that are not, each in ascending order. Raises TrainingError if none were."""
    count = round(share * len(rows))
    if share and len(rows) and not count:
        raise TrainingError(
            f"A validation_share of {share} is no row of {len(rows)}.",
            "Nothing would be held out, and there would be no validation loss.",
            "Set it higher, or to 0.",
        )
    order = _order(seed, HOLD_OUT + number, 0, len(rows))
    return np.sort(rows[order[:count]]), np.sort(rows[order[count:]])


def _walk(rows: np.ndarray, seed: int, number: int, start: int, count: int) -> np.ndarray:
    """int64 [count]: rows from place `start` on of an endless walk, pass after pass, each in an order of its own."""
    places = np.arange(start, start + count)
    orders = {turn: _order(seed, number, int(turn), len(rows)) for turn in set(places // len(rows))}
    return np.array([rows[orders[place // len(rows)][place % len(rows)]] for place in places])


@lru_cache(maxsize=8)
def _order(seed: int, split: int, turn: int, count: int) -> np.ndarray:
    # Bit generators are stable across numpy versions; Generator.permutation is not promised to be.
    keys = np.random.PCG64(np.random.SeedSequence([seed, split, turn])).random_raw(count)
    return np.argsort(keys, kind="stable")
