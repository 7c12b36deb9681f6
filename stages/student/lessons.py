"""Stage two, step four: what the training loop asks of whatever is to be learnt."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from stages.errors import TrainingError
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

    def loss_at(self, distance: float) -> float:
        """The loss of a model that is off by so much everywhere: in logit units, or in nats. By it a loss is called absurd."""
        ...


def refuse_long_rows(reads: np.ndarray, name_of: Callable[[int], str], limit: int | None, section: str) -> None:
    """Raise TrainingError if the student would read more tokens in a row than its model was made for.

    reads: int64 [rows], tokens that the student reads of each row. name_of: a row's name, for the message. limit: the most
    tokens; None: the model states none, as one with states instead of positions.
    """
    if limit is None or not (reads > limit).any():
        return
    longest = int(reads.argmax())
    raise TrainingError(
        f"Example {name_of(longest)} takes {reads[longest]:,} tokens, and the model holds {limit:,}; "
        f"{int((reads > limit).sum()):,} of {len(reads):,} rows are too long.",
        "Nothing is truncated, because half a row teaches something else, so nothing was trained.",
        "Leave those rows out, "
        + ("supervise fewer positions (student.forget_positions, student.retain_positions), " * (section == "student"))
        + "or train a model that holds more.",
    )
