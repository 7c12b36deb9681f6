"""One process or many: how stage two is started on this machine.

Under a launcher (deepspeed, torchrun, a scheduler) the environment names this process's rank, and nothing is started.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from stages.language_model.hardware import core_count, gpu_count


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def process_count(asked: int | None) -> int:
    """Processes to train with: as asked, or one per GPU, or one."""
    return asked or max(gpu_count(), 1)


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `python -m pipeline ARGUMENTS` in several processes through torchrun; returns the exit code.

    Each process gets its share of the cores: torchrun would give each a single thread.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("-m", "pipeline", *arguments),
    ]
    threads = str(max(core_count() // processes, 1))
    return subprocess.run(command, env={"OMP_NUM_THREADS": threads, **os.environ}, check=False).returncode
