"""Ordinary fine-tuning as a lesson: prompts with their responses in, the cross-entropy of each response out.

It makes models that know a topic or never knew it, and it is what an attacker does who trains an unlearned model again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from stages.logit_cache.rows import Split
from stages.student.batches import Inputs, pad_left
from stages.student.lessons import refuse_long_rows
from stages.student.objective import supervised_logits
from stages.student.samples import PooledStream
from stages.student.settings import TrainingSettings


@dataclass(frozen=True)
class Example:
    """A prompt and what is to be said after it: token ids, at least one each. name: for messages."""

    name: str
    split: Split
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]


@dataclass(frozen=True, eq=False)
class Texts(Inputs):
    """One micro-batch of examples. target_BT: int64, the token that is to follow; 0 where nothing is taught."""

    target_BT: torch.Tensor


class Finetuning:
    """To say the responses; a `Lesson`.

    context_length: most tokens that the model was made for; None: it states none.
    Raises TrainingError if there are too few examples for a batch, or one is longer than the model reads.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        settings: TrainingSettings,
        *,
        validation_share: float = 0.0,
        group_by_length: bool = False,
        context_length: int | None = None,
    ) -> None:
        self._examples = examples
        self.tokens = np.array([len(each.prompt_ids) + len(each.response_ids) for each in examples], dtype=np.int64)
        # The last token of a response is never read.
        refuse_long_rows(
            self.tokens - 1, lambda index: repr(examples[index].name[:80]), context_length, settings.section
        )
        self.stream = PooledStream(
            len(examples),
            batch_rows=settings.batch_rows,
            seed=settings.seed,
            validation_share=validation_share,
            tokens=self.tokens if group_by_length else None,
        )

    def batch(self, rows: np.ndarray, *, pad_id: int, share_from: int | None = None) -> Texts:
        """Every token of each response is supervised."""
        chosen = [self._examples[int(row)] for row in rows]
        inputs = pad_left(
            [(np.array(each.prompt_ids), np.array(each.response_ids)) for each in chosen],
            pad_id=pad_id,
            forget=[each.split == "forget" for each in chosen],
            ids=[each.name for each in chosen],
            share_from=share_from,
        )
        target_BT = torch.zeros(inputs.taught_BT.shape, dtype=torch.int64)
        for index, each in enumerate(chosen):
            target_BT[index, -len(each.response_ids) :] = torch.tensor(list(each.response_ids))
        return Texts(**vars(inputs), target_BT=target_BT)

    def losses(self, model: Callable[..., Any], batch: Texts) -> torch.Tensor:
        """float32 [B]: mean cross-entropy in nats over the tokens of each response."""
        # Only what is taught: half of a padded batch's positions are not, and the vocabulary is wide.
        logits_NV = supervised_logits(model, batch)[batch.taught_BT].float()
        loss_N = cross_entropy(logits_NV, batch.target_BT[batch.taught_BT], reduction="none")
        loss_BT = torch.zeros_like(batch.target_BT, dtype=torch.float32).masked_scatter(batch.taught_BT, loss_N)
        return loss_BT.sum(dim=-1) / batch.taught_BT.sum(dim=-1)

    def loss_at(self, distance: float) -> float:
        """Every token's log-probability this many nats below 0."""
        return distance
