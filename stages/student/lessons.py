"""Stage two, step four: what the training loop asks of whatever is to be learnt."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from stages.student.batches import Inputs

Kind = TypeVar("Kind", bound=Inputs)


class Stream(Protocol):
    """Which rows make up which global batch; a function of seed and step alone, so that any run can be gone on with."""

    batch_rows: int
    steps_per_epoch: int
    validation_rows: np.ndarray

    def rows_of(self, step: int) -> np.ndarray:
        """int64 [B]: the rows of global batch `step`."""
        ...


class Lesson(Protocol[Kind]):
    """Something to be learnt: rows, and the loss of each."""

    @property
    def stream(self) -> Stream:
        """The order of the rows."""
        ...

    @property
    def tokens(self) -> np.ndarray:
        """int64 [rows]: tokens of each row."""
        ...

    def batch(self, rows: np.ndarray, *, pad_id: int, share_from: int | None = None) -> Kind:
        """These rows as one micro-batch, on the CPU; what all begin with is in it once if that saves `share_from` tokens."""
        ...

    def losses(self, model: Callable[..., Any], batch: Kind) -> torch.Tensor:
        """float32 [B]: the loss of each row. model: a network or an engine around it."""
        ...
