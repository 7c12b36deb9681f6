"""Stage two, step two: rows in, padded tensors out.

What all rows of a batch begin with, such as a system prompt, can stand in it once. The rest is padded on the left: the
supervised positions are each row's last ones, so they all stand at the end of the batch, and the model's own
`logits_to_keep` computes logits there and nowhere else, with its own scaling and soft-capping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from stages.language_model.engine import shared_length
from stages.logit_cache.rows import Row


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a network reads for one loss. B rows, S tokens that all begin with, L further tokens, T supervised positions.

    shared_S: int64, to be read once for all rows; empty unless it was asked for.
    input_BL, mask_BL, positions_BL: int64; padding on the left. taught_BT: bool, True where there is something to learn.
    forget_B: bool. example_ids: for messages.
    """

    shared_S: torch.Tensor
    input_BL: torch.Tensor
    mask_BL: torch.Tensor
    positions_BL: torch.Tensor
    taught_BT: torch.Tensor
    forget_B: torch.Tensor
    example_ids: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all rows, what they share counted in each."""
        return int(self.mask_BL.sum()) + len(self.mask_BL) * len(self.shared_S)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(self).items()
        }
        return type(self)(**moved)


@dataclass(frozen=True, eq=False)
class Batch(Inputs):
    """One micro-batch of a logit cache. K candidates.

    topk_ids_BTK: int64; teacher_BTK: float32 raw logits. taught_BT: where the teacher spoke.
    """

    topk_ids_BTK: torch.Tensor
    teacher_BTK: torch.Tensor


def collate(rows: Sequence[Row], *, pad_id: int, share_from: int | None = None) -> Batch:
    """Left-pad the rows: student input, then the teacher's tokens but the last, which nothing follows. More: `pad_left`."""
    pairs = [(row.student_input_ids, row.response_ids) for row in rows]
    inputs = pad_left(
        pairs,
        pad_id=pad_id,
        forget=[row.split == "forget" for row in rows],
        ids=[row.example_id for row in rows],
        share_from=share_from,
    )
    taught, candidates = inputs.taught_BT.shape[1], rows[0].topk_ids.shape[1]
    ids_BTK = np.zeros((len(rows), taught, candidates), dtype=np.int64)
    teacher_BTK = np.zeros((len(rows), taught, candidates), dtype=np.float32)
    for index, row in enumerate(rows):
        ids_BTK[index, taught - len(row.response_ids) :] = row.topk_ids
        teacher_BTK[index, taught - len(row.response_ids) :] = row.topk_logits
    return Batch(**vars(inputs), topk_ids_BTK=torch.from_numpy(ids_BTK), teacher_BTK=torch.from_numpy(teacher_BTK))


def pad_left(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    pad_id: int,
    forget: Sequence[bool],
    ids: Sequence[str],
    share_from: int | None = None,
) -> Inputs:
    """Pairs of prompt and response (token ids, each at least one) as one padded batch; the response's tokens are supervised.

    The logits at the prompt's last token teach the response's first; the response's last token is never read.
    share_from: what all prompts begin with stands in the batch once, if that saves so many tokens; None: never.
    """
    prompts, responses = zip(*pairs, strict=True)
    shared = 0 if share_from is None else _worth_sharing(prompts, share_from)
    read = [np.concatenate([prompt[shared:], response[:-1]]) for prompt, response in pairs]
    length, taught = max(map(len, read)), max(map(len, responses))
    input_BL = np.full((len(pairs), length), pad_id, dtype=np.int64)
    mask_BL = np.zeros((len(pairs), length), dtype=np.int64)
    taught_BT = np.zeros((len(pairs), taught), dtype=bool)
    for index, (tokens, response) in enumerate(zip(read, responses, strict=True)):
        input_BL[index, length - len(tokens) :] = tokens
        mask_BL[index, length - len(tokens) :] = 1
        taught_BT[index, taught - len(response) :] = True
    return Inputs(
        shared_S=torch.from_numpy(np.array(prompts[0][:shared], dtype=np.int64)),
        input_BL=torch.from_numpy(input_BL),
        mask_BL=torch.from_numpy(mask_BL),
        positions_BL=torch.from_numpy(shared + np.maximum(mask_BL.cumsum(axis=1) - 1, 0)),
        taught_BT=torch.from_numpy(taught_BT),
        forget_B=torch.tensor(list(forget)),
        example_ids=tuple(ids),
    )


def _worth_sharing(prompts: Sequence[np.ndarray], share_from: int) -> int:
    """How many tokens to read once. Each prompt keeps one of its own, from which its first logits come."""
    shared = min(shared_length([prompt.tolist() for prompt in prompts]), min(map(len, prompts)) - 1)
    return shared if shared * (len(prompts) - 1) >= share_from else 0
