"""When a run should stop, or say something: a signal, a validation loss that stalls, a loss that keeps rising."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Weight of the newest step in the smoothed loss: half of it comes from the last seven steps.
SMOOTHING = 0.1


class StopRequest:
    """Whether SIGTERM has come, as schedulers send it some time before they kill.

    file: what the process that started this one lays down when it got the signal in this one's place.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._signalled = False

    @property
    def received(self) -> bool:
        return self._signalled or (self._file is not None and self._file.exists())

    def fulfil(self) -> None:
        """Take the request back, now that it was met: the next process must not find it."""
        self._signalled = False
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Note the signal instead of dying of it, inside the block."""

        def note(number: int, frame: FrameType | None) -> None:
            self._signalled = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)


def has_stalled(losses: Sequence[float], patience: int | None) -> bool:
    """Whether none of the last `patience` losses is below the best before them. Never, if patience is None."""
    if patience is None or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])


class RisingLoss:
    """Notices a smoothed loss that rises step after step.

    steps: so many rises in a row are worth a warning, which comes once per rise. None: never.
    """

    def __init__(self, steps: int | None) -> None:
        self.steps = steps
        self._smoothed: float | None = None
        self._rises = 0

    def sees(self, loss: float) -> bool:
        """Take the next step's loss; True when the warning is due."""
        before = self._smoothed
        self._smoothed = loss if before is None else before + SMOOTHING * (loss - before)
        self._rises = self._rises + 1 if before is not None and self._smoothed > before else 0
        return self._rises == self.steps
