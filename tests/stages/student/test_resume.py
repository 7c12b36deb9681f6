"""Runs that are killed, stopped, starved of disk or moved to other processes, and what they come to in the end."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from workspace import Workspace, make_workspace

pytestmark = pytest.mark.slow
# Sixteen steps, a checkpoint after each but the last: enough for a signal to arrive in time.
SETTINGS = ("student.epochs=8", "student.checkpoint_steps=1")
STEPS = 16


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A cache of the tiny topic; runs go beside it."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    return workspace


def start(workspace: Workspace, run: Path, *settings: str, **options: object) -> subprocess.Popen[str]:
    """`duet distill` in processes of its own."""
    command = ["distill", "--config", str(workspace.settings), "--cache", str(workspace.cache), "--out", str(run)]
    sets = [part for value in (*SETTINGS, *settings) for part in ("--set", value)]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command, *sets],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,  # type: ignore[call-overload]
    )


def finish(workspace: Workspace, run: Path, *settings: str) -> str:
    """The same command to its end; returns what it said."""
    process = start(workspace, run, *settings)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return said


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_bytes().splitlines()) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def losses_of(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(captured: Workspace) -> Path:
    run = captured.folder / "uninterrupted"
    finish(captured, run)
    return run


def test_a_finished_run_keeps_no_checkpoint(uninterrupted: Path) -> None:
    assert not (uninterrupted / "checkpoints").exists()
    assert [step for step, _ in losses_of(uninterrupted)] == list(range(STEPS))


# At 1 the first checkpoint is just being saved, and with a delay of some milliseconds another part of the saving is hit.
@pytest.mark.parametrize(("steps", "delay_s"), [(1, 0.0), (3, 0.02), (6, 0.05)])
def test_a_killed_run_comes_to_the_same_bits(
    captured: Workspace, uninterrupted: Path, tmp_path: Path, steps: int, delay_s: float
) -> None:
    process = start(captured, tmp_path / "run")
    wait_for_steps(tmp_path / "run", steps, process)
    time.sleep(delay_s)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run/run.json").exists()

    said = finish(captured, tmp_path / "run")

    assert steps < 3 or "going on after step" in said
    assert_same_weights(weights_of(uninterrupted), weights_of(tmp_path / "run"))
    assert losses_of(tmp_path / "run") == losses_of(uninterrupted)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_ends_with_75_and_the_run_goes_on(
    captured: Workspace, uninterrupted: Path, tmp_path: Path, processes: int
) -> None:
    # Without a checkpoint by steps or by time: the signal alone makes one.
    settings = ("student.checkpoint_steps=1000", f"student.processes={processes}")
    process = start(captured, tmp_path / "run", *settings)
    wait_for_steps(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 75, said
    assert "stopped" in said.lower()
    assert len(list((tmp_path / "run/checkpoints").glob("step-????????"))) == 1

    finish(captured, tmp_path / "run", *settings)

    tolerance = 0.0 if processes == 1 else 5e-5
    assert_same_weights(weights_of(uninterrupted), weights_of(tmp_path / "run"), atol=tolerance)
    assert [step for step, _ in losses_of(tmp_path / "run")] == list(range(STEPS))


def stop_midway(workspace: Workspace, run: Path, *settings: str) -> Path:
    """A run stopped by SIGTERM; returns its newest checkpoint."""
    process = start(workspace, run, *settings)
    wait_for_steps(run, 4, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 75, said
    return max((run / "checkpoints").glob("step-????????"))


@pytest.mark.parametrize("damage", ["flipped", "missing", "no marker"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    captured: Workspace, uninterrupted: Path, tmp_path: Path, damage: str
) -> None:
    newest = stop_midway(captured, tmp_path / "run")
    state = newest / "mp_rank_00_model_states.pt"
    if damage == "flipped":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    else:
        (state if damage == "missing" else newest / "checkpoint.json").unlink()
    step = int(newest.name.removeprefix("step-"))

    said = finish(captured, tmp_path / "run")

    assert f"going on after step {step - 1} of {STEPS}" in said
    assert_same_weights(weights_of(uninterrupted), weights_of(tmp_path / "run"))


@pytest.mark.parametrize(
    ("settings", "named"), [("student.seed=1", "student.seed: 0 → 1"), ("student.learning_rate=1e-4", "learning_rate")]
)
def test_another_run_does_not_go_on_from_its_checkpoints(
    captured: Workspace, tmp_path: Path, settings: str, named: str
) -> None:
    newest = stop_midway(captured, tmp_path / "run")

    process = start(captured, tmp_path / "run", settings)
    said = process.communicate()[1]

    assert process.returncode == 1
    assert named in said
    assert newest.is_dir()


@pytest.mark.parametrize(("zero_stage", "before", "after"), [(0, 1, 2), (1, 2, 1), (2, 1, 2), (3, 2, 1)])
def test_another_number_of_processes_goes_on_with_the_same_stream(
    captured: Workspace, uninterrupted: Path, tmp_path: Path, zero_stage: int, before: int, after: int
) -> None:
    stage = f"student.zero_stage={zero_stage}"
    stop_midway(captured, tmp_path / "run", stage, f"student.processes={before}")

    said = finish(captured, tmp_path / "run", stage, f"student.processes={after}")

    assert "going on after step" in said
    assert_same_weights(weights_of(uninterrupted), weights_of(tmp_path / "run"), atol=5e-5)
    found, expected = losses_of(tmp_path / "run"), losses_of(uninterrupted)
    assert [step for step, _ in found] == list(range(STEPS))
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-4)


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before_it(
    captured: Workspace, uninterrupted: Path, tmp_path: Path
) -> None:
    newest = stop_midway(captured, tmp_path / "run")
    largest = max(path.stat().st_size for path in newest.iterdir())

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start(captured, tmp_path / "run", preexec_fn=no_room)
    said = process.communicate()[1]

    assert process.returncode == 1, said
    assert "could not be written" in said
    assert "Traceback" not in said
    assert max((tmp_path / "run/checkpoints").glob("step-????????")) == newest
    finish(captured, tmp_path / "run")
    assert_same_weights(weights_of(uninterrupted), weights_of(tmp_path / "run"))


def test_a_second_process_on_the_same_run_is_refused(captured: Workspace, tmp_path: Path) -> None:
    first = start(captured, tmp_path / "run", "student.epochs=400")
    wait_for_steps(tmp_path / "run", 1, first)

    second = start(captured, tmp_path / "run", "student.epochs=400")
    said = second.communicate()[1]

    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert "is being trained by another process" in said


def test_a_run_whose_validation_loss_stalls_stops_and_says_so(captured: Workspace, tmp_path: Path) -> None:
    # At this rate nothing moves, so no epoch is better than the first by more than rounding makes it.
    settings = ("student.validation_share=0.3", "student.patience_epochs=1", "student.batch_rows=2")
    said = finish(captured, tmp_path / "run", *settings, "student.learning_rate=0.5", "student.epochs=20")

    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["steps"] < record["steps_planned"]
    assert "The validation loss stalled" in said


def test_adapters_go_on_from_a_checkpoint_that_holds_no_frozen_weight(captured: Workspace, tmp_path: Path) -> None:
    lora = ("student.method=lora", "student.lora_rank=2")
    finish(captured, tmp_path / "whole", *lora)
    newest = stop_midway(captured, tmp_path / "run", *lora)
    saved = torch.load(newest / "mp_rank_00_model_states.pt", weights_only=False)["module"]

    said = finish(captured, tmp_path / "run", *lora)

    assert any("lora_" in name for name in saved)
    # A layer that an adapter wraps keeps its own weight under this name.
    assert not any("base_layer" in name for name in saved)
    assert "going on after step" in said
    assert_same_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "run"))
