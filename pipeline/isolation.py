"""Run a function in a process of its own: vLLM gives an engine's memory back only when its process ends."""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from stages.errors import DuetError, EngineError
from stages.interruption import INTERRUPTED, code_of, end_quietly, listen

# So long a process may take to give back what it holds, such as temporary folders, before it is killed.
UNWINDING_S = 10.0


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), in a fresh process. Its exceptions are raised here; both must be picklable.

    What ends the wait here, a signal above all, ends that process as well.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, function, arguments))
    try:
        with _undisturbed():
            child.start()
        sender.close()
        found, error = receiver.recv()
    except EOFError:
        child.join()
        raise EngineError(
            "The process that ran the model was killed.",
            "Most often it ran out of memory.",
            "Use less:  --set model.batch_rows=8",
        ) from None
    except BaseException:
        _end(child)
        raise
    finally:
        receiver.close()
    child.join()
    if error is not None:
        raise error
    return found


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a signal that comes meanwhile act afterwards, and the process that is started here block SIGINT for good.

    Ctrl-C in a terminal reaches every process of it; this one decides, and tells the other by SIGTERM. Blocking does not keep
    a signal from this process: one of the threads that libraries keep would take it, and half-started the other process would
    say so in a traceback.
    """
    came: list[int] = []
    handled = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) is not None:
                handled[number] = handler
                signal.signal(number, lambda number, _: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handled.items():
            signal.signal(number, handler)
        for again in came:
            signal.raise_signal(again)


def _answer(sender: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    listen()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer: tuple[Any, BaseException | None]
    try:
        answer = (function(*arguments), None)
    # Wide on purpose: whatever it is, it is the caller's to handle.
    except BaseException as error:
        if code_of(error) is not None:
            end_quietly(INTERRUPTED)
            os._exit(INTERRUPTED)
        if not isinstance(error, DuetError):
            error.add_note(f"In the process that ran {function.__name__}:\n{traceback.format_exc()}")
        answer = (None, error)
    sender.send_bytes(_pickled(answer))


def _pickled(answer: tuple[Any, BaseException | None]) -> bytes:
    """The answer as bytes; of an exception that cannot be sent, what it says."""
    try:
        content = pickle.dumps(answer)
        pickle.loads(content)
    # Wide on purpose: an exception's own class may fail in any way when it is made again.
    except Exception:
        if answer[1] is None:
            raise
        content = pickle.dumps((None, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))
    return content


def _end(child: BaseProcess) -> None:
    if child.pid is None:
        return
    child.terminate()
    child.join(UNWINDING_S)
    if child.is_alive():
        child.kill()
        child.join()


def _end_with_parent() -> None:
    """A killed command must not leave a process behind that goes on computing for nobody."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(UNWINDING_S)
    os._exit(1)
