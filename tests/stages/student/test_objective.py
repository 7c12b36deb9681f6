"""DUET's loss, against figures worked out by hand."""

import pytest
import torch

from stages.errors import CacheMismatch
from stages.student.objective import huber_by_position, topk_huber


def test_small_distances_are_quadratic_large_ones_linear() -> None:
    student_BTK = torch.tensor([[[1.0, 5.0], [0.0, 0.0]]])
    teacher_BTK = torch.tensor([[[1.5, 1.0], [0.0, -2.0]]])

    # ½·0.5² + 1·(4 − ½)  and  0 + 1·(2 − ½), summed over K.
    assert huber_by_position(student_BTK, teacher_BTK, delta=1.0).tolist() == [[0.125 + 3.5, 1.5]]
    # With delta 4 all are quadratic: ½·0.25 + ½·16  and  ½·4.
    assert huber_by_position(student_BTK, teacher_BTK, delta=4.0).tolist() == [[8.125, 2.0]]


def test_each_row_is_a_mean_over_the_positions_at_which_the_teacher_spoke() -> None:
    student_BTK, teacher_BTK = torch.zeros(2, 2, 1), torch.tensor([[[9.0], [2.0]], [[1.5], [3.0]]])
    taught_BT = torch.tensor([[False, True], [True, True]])

    # 1.5 (the 9.0 is padding), and (1.0 + 2.5) / 2.
    assert topk_huber(student_BTK, teacher_BTK, taught_BT, delta=1.0).tolist() == [1.5, 1.75]


def test_loss_is_zero_when_student_equals_teacher_and_it_pulls_towards_the_teacher() -> None:
    teacher_BTK = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    taught_BT = torch.ones(2, 3, dtype=torch.bool)
    student_BTK = teacher_BTK.clone().requires_grad_()

    loss = topk_huber(student_BTK, teacher_BTK, taught_BT, delta=1.0).mean()
    loss.backward()

    assert loss.item() == 0
    assert not student_BTK.grad.any()  # type: ignore[union-attr]


def test_changing_one_cached_logit_changes_the_gradient_only_at_that_id() -> None:
    generator = torch.Generator().manual_seed(0)
    student_BTK = torch.randn(2, 3, 4, generator=generator)
    teacher_BTK = torch.randn(2, 3, 4, generator=generator)
    taught_BT = torch.ones(2, 3, dtype=torch.bool)

    def gradient(target_BTK: torch.Tensor) -> torch.Tensor:
        leaf = student_BTK.clone().requires_grad_()
        topk_huber(leaf, target_BTK, taught_BT, delta=10.0).mean().backward()
        assert leaf.grad is not None
        return leaf.grad

    changed = teacher_BTK.clone()
    changed[1, 2, 3] += 0.25
    difference = gradient(changed) - gradient(teacher_BTK)

    # d/ds of ½(s − t)² falls by the change of t, over two rows of three positions.
    assert difference[1, 2, 3].item() == pytest.approx(-0.25 / 6)
    difference[1, 2, 3] = 0
    assert not difference.any()


def test_a_row_that_teaches_nothing_is_refused() -> None:
    with pytest.raises(CacheMismatch, match="no supervised position"):
        topk_huber(torch.zeros(2, 1, 2), torch.zeros(2, 1, 2), torch.tensor([[True], [False]]), delta=1.0)
