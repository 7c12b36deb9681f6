"""When a run stops by itself, and when it warns."""

import os
import signal
from pathlib import Path

import pytest

from stages.errors import TrainingError
from stages.student.metrics import refuse_missing_monitors
from stages.student.stopping import RisingLoss, StopRequest, has_stalled


@pytest.mark.parametrize(
    ("losses", "patience", "stalled"),
    [
        ([3.0, 2.0, 1.0], 1, False),
        ([3.0, 2.0, 2.0], 1, True),
        ([3.0, 1.0, 2.0, 0.5], 2, False),
        ([3.0, 1.0, 2.0, 1.5], 2, True),
        ([3.0, 4.0], 2, False),
        ([1.0, 2.0, 3.0, 4.0], None, False),
    ],
)
def test_a_loss_stalls_when_patience_sees_no_new_best(losses: list[float], patience: int | None, stalled: bool) -> None:
    assert has_stalled(losses, patience) is stalled


def test_a_rise_is_reported_once_and_again_only_after_a_fall() -> None:
    watch = RisingLoss(3)

    # The smoothed loss: 1.0, then up at every 9, down at the 0.
    assert [watch.sees(loss) for loss in (1.0, 9, 9, 9, 9, 0, 9, 9, 9)] == [
        *(False, False, False, True, False),
        *(False, False, False, True),
    ]


def test_a_single_high_step_is_no_rise() -> None:
    watch = RisingLoss(3)

    assert not any(watch.sees(loss) for loss in (1.0, 50.0, 1.0, 1.0, 50.0, 1.0))


def test_sigterm_is_noted_inside_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with StopRequest().listening() as stop:
        assert not stop.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received

    assert signal.getsignal(signal.SIGTERM) == before


def test_a_file_asks_for_a_stop_as_well(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path / "stop")

    assert not stop.received
    (tmp_path / "stop").touch()
    assert stop.received
    stop.fulfil()
    assert not stop.received


def test_a_monitor_that_is_not_installed_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"finetune\.monitors names not_a_monitor, which is not installed"):
        refuse_missing_monitors(["not_a_monitor"], "finetune")
