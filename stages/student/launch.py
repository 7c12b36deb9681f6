"""One process or many: how stage two is started on this machine.

Under a launcher (deepspeed, torchrun, a scheduler) the environment names this process's rank, and nothing is started.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from stages.errors import SettingsError, Stopped
from stages.language_model.hardware import core_count, gpu_count

# Processes per core, where there is no GPU: more only take each other's time and memory.
PER_CORE = 4


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
    """Run `python -m pipeline ARGUMENTS` in several processes through torchrun; returns the exit code.

    Each process gets its share of the cores: torchrun would give each a single thread. SIGTERM is handed on as
    `stop_file`, because torchrun kills what has not ended half a minute after the signal; the code is then that of Stopped.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("-m", "pipeline", *arguments),
    ]
    threads = str(max(core_count() // processes, 1))

    was_asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal was_asked
        was_asked = True
        stop_file.touch()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        code = subprocess.run(command, env={"OMP_NUM_THREADS": threads, **os.environ}, check=False).returncode
    finally:
        signal.signal(signal.SIGTERM, before)
    return Stopped.exit_code if code and was_asked else code
