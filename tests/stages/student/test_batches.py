"""Rows in, left-padded tensors out; and the cached logits stand where the student computes them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.logit_cache.rows import Row, example_id
from stages.student.batches import collate
from stages.student.objective import student_logits

PAD = 9


def row(student: list[int], response: list[int], split: str = "forget") -> Row:
    positions = len(response)
    return Row(
        example_id=example_id(str(student)),
        split=split,  # type: ignore[arg-type]
        query=str(student),
        student_input_ids=np.array(student, dtype=np.int32),
        response_ids=np.array(response, dtype=np.int32),
        student_positions=np.arange(len(student) - 1, len(student) - 1 + positions, dtype=np.int32),
        topk_ids=np.arange(2 * positions, dtype=np.int32).reshape(positions, 2),
        topk_logits=-np.arange(2 * positions, dtype=np.float32).reshape(positions, 2),
    )


def test_a_batch_worked_out_by_hand() -> None:
    batch = collate([row([1, 2, 3], [4, 5]), row([6], [7], "retain")], pad_id=PAD)

    # The last response token is predicted, never read.
    assert batch.input_BL.tolist() == [[1, 2, 3, 4], [PAD, PAD, PAD, 6]]
    assert batch.mask_BL.tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert batch.positions_BL.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert batch.taught_BT.tolist() == [[True, True], [False, True]]
    assert batch.topk_ids_BTK.tolist() == [[[0, 1], [2, 3]], [[0, 0], [0, 1]]]
    assert batch.teacher_BTK.tolist() == [[[0, -1], [-2, -3]], [[0, 0], [0, -1]]]
    assert batch.forget_B.tolist() == [True, False]


def test_moving_a_batch_keeps_its_names() -> None:
    batch = collate([row([1], [2])], pad_id=PAD)

    assert batch.to(torch.device("cpu")).example_ids == batch.example_ids


def own_logits(model: torch.nn.Module, one: Row) -> torch.Tensor:
    """All logits of one row read alone, without padding, at the positions that the row itself names: [T, V]."""
    ids = np.concatenate([one.student_input_ids, one.response_ids]).astype(np.int64)
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)[None]).logits[0, one.student_positions.astype(np.int64)]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1]])
def test_the_student_is_compared_where_the_row_says_whatever_stands_beside_it(
    tiny_model: Path, order: list[int]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = [row([5, 6, 7, 8, 3], [40, 41, 42]), row([30], [31]), row([50, 51, 52], [60, 61])]
    chosen = [rows[index] for index in order]

    with torch.no_grad():
        found_BTK = student_logits(model, collate(chosen, pad_id=0))

    for index, one in enumerate(chosen):
        expected = own_logits(model, one).gather(-1, torch.from_numpy(one.topk_ids.astype(np.int64)))
        torch.testing.assert_close(found_BTK[index, -len(one.response_ids) :], expected, atol=2e-5, rtol=0)


def test_only_the_supervised_positions_reach_the_language_model_head(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))

    student_logits(model, collate([row([5, 6, 7, 8, 3], [40, 41]), row([30], [31])], pad_id=0))

    assert seen == [torch.Size([2, 2, 512])]
