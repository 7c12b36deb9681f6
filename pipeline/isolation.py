"""Run a function in a process of its own: vLLM gives an engine's memory back only when its process ends."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any

from stages.errors import EngineError


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), in a fresh process. Its exceptions are raised here; both must be picklable."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise EngineError(
                "The process that ran the model was killed.",
                "Most often it ran out of memory.",
                "Use less:  --set model.batch_rows=8",
            ) from error


def _end_with_parent() -> None:
    """A killed command must not leave a process behind that goes on computing for nobody."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
