"""`duet` in forks of a process that has imported everything: a run costs what it computes, not ten seconds of imports.

What the commands start by themselves is forked, too: the processes that `pipeline.isolation` and `pipeline.sweep` would
start anew. `really` runs the same command as people do; the measurement does so now and then, to show that both agree.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from kills.killer import Killer

MOST_SECONDS = 60
# Imported with difficulty in a fork, or not needed: one starts threads, the other servers.
NOT_BEFORE = ("stages.language_model.vllm_engine",)


@dataclass(frozen=True)
class Ended:
    """code: of the exit, negative for a signal. survivors: whether processes outlived the command."""

    code: int
    output: str
    steps: int
    survivors: bool


def import_everything() -> None:
    """All modules of this project, and with them torch, transformers and DeepSpeed."""
    import deepspeed  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for package in ("pipeline", "stages"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if module.name not in NOT_BEFORE and not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # what an optional package is needed for
                    importlib.import_module(module.name)
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401


def forked(
    arguments: Sequence[str],
    scratch: Path,
    below: tuple[Path, ...],
    kill_at: int,
    number: signal.Signals,
    after: float = 0,
) -> Ended:
    """Run `duet ARGUMENTS`. scratch: its TMPDIR, and where its output goes. after: seconds to SIGKILL instead, if not 0."""
    killer = Killer(below, kill_at, number)
    log = scratch.parent / "log"
    child = os.fork()
    if not child:
        os.setsid()
        _become(log, scratch)
        _fork_what_is_started()
        killer.install()
        _leave_with(lambda: _duet(arguments))
    code, survivors = _wait(child, after)
    return Ended(code, log.read_text(errors="replace"), killer.steps, survivors)


def really(arguments: Sequence[str], scratch: Path, root: Path, after: float = 0) -> Ended:
    """The same as people run it, killed after that many seconds, if not 0."""
    log = scratch.parent / "log"
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    with open(log, "wb") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    code, survivors = _wait(child.pid, after)
    return Ended(code, log.read_text(errors="replace"), 0, survivors)


def in_fork(work: Callable[[], object]) -> None:
    """Run something in a process of its own, since no thread may begin in this one. Raises RuntimeError if it fails."""
    child = os.fork()
    if not child:
        os.setsid()
        _leave_with(lambda: (work(), 0)[1])
    if _wait(child, 0)[0]:
        raise RuntimeError("the preparation failed")


def _wait(child: int, after: float) -> tuple[int, bool]:
    """Exit code, and whether others of the process group lived on; afterwards none does."""
    began = time.monotonic()
    limit = after or MOST_SECONDS
    status = 0
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() - began > limit:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            limit = MOST_SECONDS
            if not after:
                _, status = os.waitpid(child, 0)
                break
        time.sleep(0.002)
    survivors = False
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(child, 0)
            if time.monotonic() > deadline:
                survivors = True
                os.killpg(child, signal.SIGKILL)
                break
            time.sleep(0.01)
    return os.waitstatus_to_exitcode(status), survivors


def _become(log: Path, scratch: Path) -> None:
    """Output, input and the temporary folder of the run."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for each in (1, 2):
        os.dup2(descriptor, each)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ["TMPDIR"] = str(scratch)
    tempfile.tempdir = None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _duet(arguments: Sequence[str]) -> int:
    from pipeline.cli import duet

    sys.argv = ["duet", *arguments]
    try:
        duet(list(arguments))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _leave_with(work: Callable[[], int]) -> NoReturn:
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _fork_what_is_started() -> None:
    from pipeline import isolation, sweep

    isolation.get_context = lambda kind: multiprocessing.get_context("fork")  # type: ignore[attr-defined, assignment]
    sweep.subprocess = SimpleNamespace(run=_run_forked)  # type: ignore[attr-defined, assignment]


def _run_forked(command: Sequence[str], stdout: Any, env: dict[str, str], **_: Any) -> SimpleNamespace:
    """In the place of subprocess.run, for `python -m pipeline …`."""
    child = os.fork()
    if not child:
        for each in (1, 2):
            os.dup2(stdout.fileno(), each)
        os.environ.update(env)
        _leave_with(lambda: _duet(list(command)[list(command).index("pipeline") + 1 :]))
    return SimpleNamespace(returncode=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
