"""Commands that a signal stops: one message, the right code, nothing half-written, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from workspace import Workspace, make_workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A cache of the tiny topic."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    return workspace


def started(temporary: Path, *arguments: object) -> subprocess.Popen[str]:
    """`duet` in a session of its own; its temporary files go to a folder of their own."""
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        # A test run in the background ignores SIGINT, and so would what it starts.
        ["env", "--default-signal=INT", sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        start_new_session=True,
    )


def stopped(process: subprocess.Popen[str], number: int, *, when: Callable[[], bool], group: bool = False) -> str:
    """Send the signal once `when` holds, to the process alone or, as a terminal does, to its group; what it said then."""
    until = time.monotonic() + 120
    while not when():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    (os.killpg if group else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=90)
    assert "Traceback" not in err and "Aborted" not in err, err
    assert err.count("Stopped") == 1, err
    assert out == ""
    return err


def nobody_lives(word: object) -> bool:
    """Whether no process has this word in its command line."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    return not any(str(word).encode() in line for line in lines)


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_in_a_training_keeps_its_checkpoints_and_names_the_command(
    captured: Workspace, tmp_path: Path, processes: int
) -> None:
    run = tmp_path / "run"
    command = (
        *("distill", "--config", captured.settings, "--cache", captured.cache, "--out", run),
        *("--set", "student.epochs=500", "--set", "student.checkpoint_steps=2"),
        *("--set", f"student.processes={processes}"),
    )
    process = started(tmp_path / "tmp", *command)

    said = stopped(process, signal.SIGINT, when=lambda: any(run.glob("checkpoints/step-????????")), group=True)

    assert process.returncode == 130
    assert "The newest whole checkpoint is kept" in said
    assert f"It goes on with:  duet {' '.join(map(str, command))}" in said
    assert not (run / "model").exists() and not (run / "run.json").exists()
    assert nobody_lives(run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_stopped_evaluation_leaves_no_file_and_no_process(
    captured: Workspace, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "evaluation.json"
    command = ("evaluate", "--config", captured.settings, "--model", captured.model, "--out", out)
    process = started(tmp_path / "tmp", *command)

    def asks() -> bool:  # the child that runs the model is there
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return any(b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)

    said = stopped(process, number, when=asks)

    assert process.returncode == code
    assert "Nothing of this call is kept" in said and f"It begins anew with:  duet {command[0]}" in said
    assert not list(tmp_path.glob("evaluation*"))
    assert not [path for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("torchinductor")]
    assert nobody_lives(out)


def test_a_signal_during_the_imports_is_one_message(captured: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    for delay_s in (0.3, 0.8, 2.0):
        process = started(tmp_path / "tmp", "teacher-cache", "--config", captured.settings, "--out", out)
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT), err
        assert "Traceback" not in err, err
    assert not (out / "manifest.json").exists()
