"""SIGINT and SIGTERM: they unwind a command, and end the processes that it has started.

Both unwind it as an exception does, so that locks are given back and temporary folders go. A library may swallow that
exception, or turn it into one of its own; therefore it is noted that the signal came.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
STOPPED = 75  # EX_TEMPFAIL, "try again"
# What is unwound at the end, by libraries above all, may take so long; then the process ends all the same.
UNWINDING_S = 20.0
# A signal that follows another so soon asks for the same: impatient people, schedulers, and a terminal beside its shell.
SAME_S = 2.0
# A training that is told to stop finishes its step and saves a checkpoint.
STOPPING_S = 60.0
# Set in the environment of a process whose stdin is open as long as the one that started it lives.
FOLLOWS = "DUET_FOLLOWS_STDIN"

received: set[int] = set()
_raised_at: list[float] = []
_follows: list[bool] = []
_children: set["subprocess.Popen[bytes]"] = set()


class Terminated(BaseException):
    """SIGTERM has come. Not an Exception: nobody but the command line may take it for a fault of its own."""


def listen() -> None:
    """Let both signals unwind the command. A command that its shell put into the background ignores SIGINT, and so it stays."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    if os.environ.pop(FOLLOWS, None):
        _follows.append(True)
        threading.Thread(target=_follow_stdin, daemon=True).start()


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], output: IO[str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with this one, however that ends, and that a signal to this one asks to stop by SIGTERM.

    Ctrl-C in a terminal does not reach it: it is in a session of its own. output: where its stdout and stderr go.
    """
    child = subprocess.Popen(
        command,
        env={**environment, FOLLOWS: "1"},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    _children.add(child)
    try:
        yield child
    except BaseException:
        with suppress(OSError):
            child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOPPING_S)
        raise
    finally:
        _children.discard(child)
        if child.poll() is None:
            child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()


def code_of(error: BaseException) -> int | None:
    """The code to end with if a signal is behind this exception, else None."""
    if isinstance(error, Terminated) or signal.SIGTERM in received:
        return STOPPED
    if isinstance(error, KeyboardInterrupt) or signal.SIGINT in received:
        return INTERRUPTED
    return None


def is_one_of_many() -> bool:
    """Whether this process is one of several that a command of ours has started for one training."""
    return bool(_follows) and "RANK" in os.environ


def end_quietly(code: int) -> None:
    """End soon, with this code, whatever libraries still wait for and signals still come. None may complain: all is said."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    silence(1, 2)

    def insist() -> None:
        time.sleep(UNWINDING_S)
        os._exit(code)

    threading.Thread(target=insist, daemon=True).start()


def stop_listening() -> None:
    """Let a signal that comes while the interpreter ends end it at once, without a traceback: the command is over."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (_interrupt, _terminate):
            signal.signal(number, signal.SIG_DFL)


def silence(*descriptors: int) -> None:
    """Send what is still written there, buffers of the interpreter and of libraries included, nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        with suppress(OSError):
            os.dup2(nowhere, descriptor)
    if nowhere > 2:
        os.close(nowhere)


def open_standard_streams() -> None:
    """Put something in the place of stdin, stdout or stderr where one is closed: else the next file opened becomes it.

    What a library prints would land in that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # always the lowest that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it lives as long as the process


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_first(number):
        raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    if _is_first(number):
        raise Terminated


def _is_first(number: int) -> bool:
    """Note the signal, hand it on, and say whether it is to unwind: one that does so already must not be cut short."""
    now = time.monotonic()
    if _raised_at and now - _raised_at[-1] < SAME_S:
        return False
    _raised_at.append(now)
    received.add(number)
    for child in list(_children):
        with suppress(OSError):
            child.terminate()
    return True


def _follow_stdin() -> None:
    """End when stdin does: the process that started this one is gone, and nobody waits for what is computed here."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
