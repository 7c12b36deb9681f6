"""Stage two, step four: DUET's lesson. Rows of a frozen logit cache in, the objective of each out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from stages.errors import TrainingError
from stages.logit_cache.reader import LogitCache
from stages.student.batches import Batch, collate
from stages.student.lessons import refuse_long_rows
from stages.student.objective import student_logits, topk_huber
from stages.student.samples import SampleStream
from stages.student.settings import StudentSettings


class Distillation:
    """To give the teacher's raw logits without its prefix; a `Lesson`.

    context_length: most tokens that the student's model was made for; None: it states none.
    left_out: bool [rows], rows of the cache that are neither trained on nor held out; None: none of them.
    Raises TrainingError if the cache and the settings do not fit, or a row is longer than the model reads.
    """

    def __init__(
        self,
        cache: LogitCache,
        settings: StudentSettings,
        *,
        context_length: int | None = None,
        left_out: np.ndarray | None = None,
    ) -> None:
        self._cache, self._settings = cache, settings
        self._kept_positions = {"forget": settings.forget_positions, "retain": settings.retain_positions}
        cached = cache.manifest.fingerprint.positions
        for split, positions in self._kept_positions.items():
            if positions is not None and positions > cached:
                raise TrainingError(
                    f"student.{split}_positions is {positions}, and {cache.folder} holds {cached} per row.",
                    "A position that was not captured cannot be supervised.",
                    f"Set student.{split}_positions lower, or capture more:  --set teacher.positions={positions}",
                )
        forget, self.tokens = cache.outline()
        self._refuse_long_rows(context_length, left_out)
        self.stream = SampleStream(
            forget,
            batch_rows=settings.batch_rows,
            seed=settings.seed,
            forget_share=settings.forget_share,
            validation_share=settings.validation_share,
            left_out=left_out,
        )

    def _refuse_long_rows(self, limit: int | None, left_out: np.ndarray | None) -> None:
        """Each row counts what is read of it: its input, and before each kept position but the first a token of the response."""
        # No row reads more than all its tokens but the last; only one that might be too long is looked at.
        reads = self.tokens - 1 if left_out is None else np.where(left_out, 0, self.tokens - 1)
        for index in np.flatnonzero(reads > limit) if limit is not None else ():
            row = self._cache.row(int(index))
            kept = self._kept_positions[row.split] or len(row.response_ids)
            reads[index] = len(row.student_input_ids) + min(kept, len(row.response_ids)) - 1
        refuse_long_rows(reads, lambda index: self._cache.row(index).example_id, limit, self._settings.section)

    def batch(self, rows: np.ndarray, *, pad_id: int, share_from: int | None = None) -> Batch:
        """The rows' supervised positions, as many of each split as the settings keep."""
        read = [self._cache.row(int(row)) for row in rows]
        kept = [row.first(positions=self._kept_positions[row.split]) for row in read]
        return collate(kept, pad_id=pad_id, share_from=share_from)

    def losses(self, model: Callable[..., Any], batch: Batch) -> torch.Tensor:
        """float32 [B]: eq. 3 of the paper."""
        student_BTK = student_logits(model, batch)
        return topk_huber(student_BTK, batch.teacher_BTK, batch.taught_BT, delta=self._settings.huber_delta)

    def loss_at(self, distance: float) -> float:
        """Every one of the K candidates' logits off by this distance."""
        delta = self._settings.huber_delta
        each = distance**2 / 2 if distance < delta else delta * (distance - delta / 2)
        return each * self._cache.manifest.fingerprint.top_k
