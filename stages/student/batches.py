"""Stage two, step two: rows of the cache in, padded tensors out.

Rows are padded on the left. The supervised positions are each row's last ones, so they all stand at the end of the
batch, and the model's own `logits_to_keep` computes logits there and nowhere else, with its own scaling and soft-capping.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.logit_cache.rows import Row


@dataclass(frozen=True, eq=False)
class Batch:
    """One micro-batch. B rows, L tokens, T supervised positions, K candidates.

    input_BL, mask_BL, positions_BL: int64; padding on the left. topk_ids_BTK: int64; teacher_BTK: float32 raw logits.
    taught_BT: bool, True where the teacher spoke. forget_B: bool. example_ids: for messages.
    """

    input_BL: torch.Tensor
    mask_BL: torch.Tensor
    positions_BL: torch.Tensor
    topk_ids_BTK: torch.Tensor
    teacher_BTK: torch.Tensor
    taught_BT: torch.Tensor
    forget_B: torch.Tensor
    example_ids: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return Batch(**moved, example_ids=self.example_ids)


def collate(rows: Sequence[Row], *, pad_id: int) -> Batch:
    """Left-pad the rows: student input, then the teacher's tokens but the last, which nothing follows."""
    inputs = [np.concatenate([row.student_input_ids, row.response_ids[:-1]]) for row in rows]
    length = max(len(ids) for ids in inputs)
    taught = max(len(row.response_ids) for row in rows)
    candidates = rows[0].topk_ids.shape[1]

    input_BL = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask_BL = np.zeros((len(rows), length), dtype=np.int64)
    ids_BTK = np.zeros((len(rows), taught, candidates), dtype=np.int64)
    teacher_BTK = np.zeros((len(rows), taught, candidates), dtype=np.float32)
    taught_BT = np.zeros((len(rows), taught), dtype=bool)
    for index, (row, ids) in enumerate(zip(rows, inputs, strict=True)):
        input_BL[index, length - len(ids) :] = ids
        mask_BL[index, length - len(ids) :] = 1
        own = slice(taught - len(row.response_ids), taught)
        ids_BTK[index, own] = row.topk_ids
        teacher_BTK[index, own] = row.topk_logits
        taught_BT[index, own] = True
    return Batch(
        input_BL=torch.from_numpy(input_BL),
        mask_BL=torch.from_numpy(mask_BL),
        positions_BL=torch.from_numpy(np.maximum(mask_BL.cumsum(axis=1) - 1, 0)),
        topk_ids_BTK=torch.from_numpy(ids_BTK),
        teacher_BTK=torch.from_numpy(teacher_BTK),
        taught_BT=torch.from_numpy(taught_BT),
        forget_B=torch.tensor([row.split == "forget" for row in rows]),
        example_ids=tuple(row.example_id for row in rows),
    )
