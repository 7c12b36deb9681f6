"""How many processes a training is given, and what is refused."""

import pytest

from stages.errors import SettingsError
from stages.student import launch


@pytest.mark.parametrize(
    ("asked", "gpus", "cores", "expected"),
    [(None, 0, 2, 1), (None, 4, 2, 4), (8, 0, 2, 8), (4, 0, 1, 4), (1, 8, 2, 1), (8, 8, 2, 8)],
)
def test_there_are_as_many_processes_as_asked_or_one_per_gpu_or_one(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, gpus: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr(launch, "gpu_count", lambda: gpus)
    monkeypatch.setattr(launch, "core_count", lambda: cores)

    assert launch.process_count(asked) == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "message"), [(9, 0, "no GPU and 2 cores"), (256, 0, "at most 8"), (2, 1, "has 1 GPU\\.")]
)
def test_more_processes_than_the_machine_can_run_are_refused(
    monkeypatch: pytest.MonkeyPatch, asked: int, gpus: int, message: str
) -> None:
    monkeypatch.setattr(launch, "gpu_count", lambda: gpus)
    monkeypatch.setattr(launch, "core_count", lambda: 2)

    with pytest.raises(SettingsError, match=message):
        launch.process_count(asked)
