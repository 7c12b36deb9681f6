"""Stage two, step three: DUET's one objective, for forget and retain rows alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import huber_loss, pad

from stages.errors import CacheMismatch
from stages.language_model.architectures import arguments_for, own_network, takes_padding
from stages.student.batches import Batch, Inputs


def student_logits(model: Callable[..., Any], batch: Batch) -> torch.Tensor:
    """The student's raw logits at the cached ids: float32 [B, T, K].

    Only the T supervised positions reach the language-model head, and only the K gathered columns become float32.
    """
    return supervised_logits(model, batch).gather(-1, batch.topk_ids_BTK).float()


def supervised_logits(model: Callable[..., Any], batch: Inputs) -> torch.Tensor:
    """Raw logits over the vocabulary at the batch's supervised positions: [B, T, V], in the model's dtype.

    What all rows begin with goes through the network as one row, and the others attend to its keys and values. No token
    attends to a later one, so the logits and their gradients are those of reading it in every row.
    Where padding is not known to change nothing (architectures.py), each row goes through the network by itself, and the
    logits of positions that are not supervised are 0.
    model: a network, or an engine around it.
    """
    if not takes_padding(own_network(model)):
        assert not len(batch.shared_S)
        return torch.stack([_logits_alone(model, batch, row) for row in range(len(batch.input_BL))])
    read: dict[str, Any] = {"attention_mask": batch.mask_BL, "use_cache": False}
    if len(batch.shared_S):
        cache = _called(model, batch.shared_S[None], logits_to_keep=1, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(batch.input_BL))
        before_BS = batch.mask_BL.new_ones(len(batch.mask_BL), len(batch.shared_S))
        read = {
            "attention_mask": torch.cat([before_BS, batch.mask_BL], dim=1),
            "past_key_values": cache,
            "use_cache": True,
        }
    taught = batch.taught_BT.shape[1]
    told = _called(model, batch.input_BL, position_ids=batch.positions_BL, logits_to_keep=taught, **read)
    logits: torch.Tensor = told.logits[:, -taught:]
    return logits


def _logits_alone(model: Callable[..., Any], batch: Inputs, row: int) -> torch.Tensor:
    """[T, V]: one row without its padding."""
    input_1L = batch.input_BL[row][batch.mask_BL[row].bool()][None]
    taught = int(batch.taught_BT[row].sum())
    logits_TV = _called(model, input_1L, logits_to_keep=taught, use_cache=False).logits[0, -taught:]
    return pad(logits_TV, (0, 0, batch.taught_BT.shape[1] - taught, 0))


def _called(model: Callable[..., Any], input_BL: torch.Tensor, **more: Any) -> Any:
    # A router's own loss is no part of any objective here, whatever the model's config asks for.
    return model(input_ids=input_BL, **arguments_for(model, output_router_logits=False, **more))


def huber_by_position(student_BTK: torch.Tensor, teacher_BTK: torch.Tensor, *, delta: float) -> torch.Tensor:
    """Huber distance between raw logits at the same ids, summed over the K candidates as in the paper: [B, T].

    student_BTK, teacher_BTK: float32 raw logits. delta: in logit units, where the quadratic part turns linear.
    Source: DUET (ICLR 2026), eq. 3.
    """
    return huber_loss(student_BTK, teacher_BTK, reduction="none", delta=delta).sum(dim=-1)


def topk_huber(
    student_BTK: torch.Tensor, teacher_BTK: torch.Tensor, taught_BT: torch.Tensor, *, delta: float
) -> torch.Tensor:
    """The objective of each row: `huber_by_position`, averaged over the positions at which the teacher spoke: [B].

    A batch's loss is the mean of its rows, so a long answer counts as much as a short one; with one position it is
    the paper's loss. taught_BT: bool.
    Raises CacheMismatch if a row has no such position: a mean over nothing is not zero loss.
    Source: DUET (ICLR 2026), eq. 3.
    """
    taught_B = taught_BT.sum(dim=-1)
    if not taught_B.all():
        raise CacheMismatch("A row has no supervised position.", "It teaches nothing, so nothing was trained.")
    loss_BT = huber_by_position(student_BTK, teacher_BTK, delta=delta)
    return loss_BT.masked_fill(~taught_BT, 0.0).sum(dim=-1) / taught_B
