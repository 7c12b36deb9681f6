"""What people see: progress bars and tables on the terminal. Results go to stdout, everything else to stderr."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

messages = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False)


def say(text: str) -> None:
    """One line for the person at the terminal."""
    messages.print(text, markup=False)


def quieten_libraries() -> None:
    """Leave the terminal to the progress bar; errors still show. Call it before the heavy imports."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars have no switch of their own
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # These set their own level when they are imported; a filter stays.
    for name in ("DeepSpeed", "vllm.triton_utils.importing", "vllm.engine.arg_utils", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar; yields `advance(count, note="")`. Without a terminal, a line now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    if messages.is_terminal:
        with Progress(*columns, console=messages) as bar:
            task = bar.add_task(label, total=total, note="")

            def advance(count: int = 1, note: str = "") -> None:
                bar.update(task, advance=count)
                if note:
                    bar.update(task, note=note)

            yield advance
        return

    done, shown = 0, -1

    def tell(count: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += count
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            shown = tenth
            say(f"{label}: {done} of {total} {unit} {note}".rstrip())

    yield tell
