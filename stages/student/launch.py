"""One process or many: how stage two is started on this machine.

Under a launcher (deepspeed, torchrun, a scheduler) the environment names this process's rank, and nothing is started.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from stages.errors import SettingsError, Stopped
from stages.interruption import started
from stages.language_model.hardware import core_count, gpu_count

# Processes per core, where there is no GPU: more only take each other's time and memory.
PER_CORE = 4
POLL_S = 0.1


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def leads_by_environment() -> bool:
    """Whether this is process 0, as known before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"


def process_count(asked: int | None) -> int:
    """Processes to train with: as asked, or one per GPU, or one. Raises SettingsError for more than the machine can run."""
    gpus = gpu_count()
    most, what = (
        (gpus, f"{gpus} GPU{'s' * (gpus > 1)}")
        if gpus
        else (PER_CORE * core_count(), f"no GPU and {core_count()} cores")
    )
    if asked and asked > most:
        raise SettingsError(
            f"The setting processes is {asked}, and this machine has {what}.",
            f"Each process holds the whole training; at most {most} were started here, so nothing was trained.",
            "Set fewer processes, or leave the setting out.",
        )
    return asked or max(gpus, 1)


def launch(arguments: Sequence[str], processes: int, *, stop_file: Path) -> int:
    """Run `python -m pipeline ARGUMENTS` in several processes; returns 0, or the exit code of one that failed.

    Each gets its share of the cores. SIGTERM is handed on as `stop_file`, so that all stop after the same step; the code is
    then that of Stopped. Where one fails, the others, which would wait for it, are ended.
    """
    environment = {
        "OMP_NUM_THREADS": str(max(core_count() // processes, 1)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    command = [sys.executable, "-m", "pipeline", *arguments]
    was_asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal was_asked
        was_asked = True
        stop_file.touch()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        with ExitStack() as stack:
            ranks = [{**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
            children = [stack.enter_context(started(command, own)) for own in ranks]
            code = _first_failure(children)
            for child in children:
                if child.poll() is None:
                    child.kill()
    finally:
        signal.signal(signal.SIGTERM, before)
    return Stopped.exit_code if code and was_asked else code


def _first_failure(children: "Sequence[subprocess.Popen[bytes]]") -> int:
    """The code of the first process that ends with one, or 0 once all have ended without.

    One that was asked to stop ends as the others do, a moment later: they are waited for.
    """
    while True:
        codes = [child.poll() for child in children]
        if all(code is not None for code in codes):
            return next((code for code in codes if code), 0)
        if failed := next((code for code in codes if code and code != Stopped.exit_code), None):
            return failed
        time.sleep(POLL_S)


def _free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
