"""Stage two once more, in plain PyTorch: one row at a time, no padding, full logits, no gathering before the loss."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.student.samples import SampleStream
from stages.student.settings import StudentSettings, learning_rate_at


def row_loss(logits_LV: torch.Tensor, row: Row, positions: int) -> torch.Tensor:
    """Huber at delta 1 on the first positions of a row, whose tokens (response included) gave the logits."""
    parts = []
    for place in range(positions):
        own = logits_LV[int(row.student_positions[place])][torch.from_numpy(row.topk_ids[place].astype(np.int64))]
        gap = (own - torch.tensor(row.topk_logits[place])).abs()
        parts.append(torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum())
    return torch.stack(parts).mean()


def tokens(row: Row) -> torch.Tensor:
    """int64 [1, L]: the query through the template, then the teacher's own tokens."""
    return torch.from_numpy(np.concatenate([row.student_input_ids, row.response_ids]).astype(np.int64))[None]


def train(
    cache: Path,
    settings: StudentSettings,
    trained: Sequence[torch.Tensor],
    logits_of: Callable[[torch.Tensor], torch.Tensor],
) -> list[float]:
    """Train the given leaves on the cache; returns each step's loss. logits_of: int64 [1, L] → [L, V]."""
    rows = list(LogitCache(cache).rows())
    forget = np.array([row.split == "forget" for row in rows])
    stream = SampleStream(forget, batch_rows=settings.batch_rows, seed=settings.seed)
    optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0)
    total = stream.steps_per_epoch * settings.epochs
    losses = []
    for step in range(total):
        optimizer.zero_grad()
        loss = torch.zeros(())
        for index in stream.rows_of(step):
            row = rows[index]
            kept = settings.forget_positions if row.split == "forget" else settings.retain_positions
            positions = min(kept or len(row.response_ids), len(row.response_ids))
            loss = loss + row_loss(logits_of(tokens(row)), row, positions) / settings.batch_rows
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings, total_steps=total)
        optimizer.step()
        losses.append(loss.item())
    return losses
