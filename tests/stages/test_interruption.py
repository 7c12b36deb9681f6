"""Signals to a process that listens: one unwinds it, whole, and others that follow change neither its end nor its code."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LISTENER = """
import sys, time
from pathlib import Path
from stages.interruption import code_of, end_quietly, listen

listen()
folder = Path(sys.argv[1])
try:
    try:
        (folder / "began").touch()
        time.sleep(30)
    finally:
        (folder / "unwinds").touch()
        time.sleep(0.4)
        (folder / "unwound").touch()
except BaseException as error:
    code = code_of(error)
    print("stopped", code, flush=True)
    end_quietly(code)
    (folder / "ends").touch()
    time.sleep(0.4)
    sys.exit(code)
"""
ENDED = """
import sys, time
from pathlib import Path
from stages.interruption import listen, stop_listening

listen()
stop_listening()
(Path(sys.argv[1]) / "began").touch()
time.sleep(30)
"""


def started(script: str, folder: Path) -> "subprocess.Popen[str]":
    # A test run in the background ignores SIGINT, and so would what it starts.
    command = ["env", "--default-signal=INT", sys.executable, "-c", script, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def send(process: "subprocess.Popen[str]", number: int, *, when: Path) -> None:
    while not when.exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(number)


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("during", ["unwinds", "ends"])
def test_a_second_signal_neither_cuts_the_unwinding_short_nor_changes_the_code(
    tmp_path: Path, first: int, second: int, code: int, during: str
) -> None:
    process = started(LISTENER, tmp_path)

    send(process, first, when=tmp_path / "began")
    send(process, second, when=tmp_path / during)
    out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (code, f"stopped {code}\n", "")
    assert (tmp_path / "unwound").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_end_of_a_command_is_no_traceback(tmp_path: Path, number: int) -> None:
    process = started(ENDED, tmp_path)

    send(process, number, when=tmp_path / "began")

    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -number
