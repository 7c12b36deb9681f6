"""What people see on the terminal, and the only module that writes to it. Results go to stdout, everything else to stderr.

Manifests, queries, file names, answers of models and messages of libraries come from elsewhere: whatever passes here is made
visible first, so that no text can steer the terminal, and none of it is ever read as markup. Of URLs, messages show no password.
"""

import json
import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stages.masking import masked
from stages.visible import on_one_line, visible, visible_json

messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
results = Console(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """One line for the person at the terminal."""
    messages.print(visible(masked(text)))


def write(text: str = "") -> None:
    """A result on stdout, as text."""
    click.echo(visible(text), file=_tolerant(sys.stdout))


def flush() -> None:
    """Write what is held back of the results. Raises OSError or ValueError if that cannot be done any more."""
    sys.stdout.flush()


def has_no_reader() -> bool:
    """Whether stdout is a pipe whose reader has gone."""
    pipe = select.poll()
    try:
        pipe.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it has no descriptor, so it is no pipe
        return False
    return any(happened & select.POLLERR for _, happened in pipe.poll(0))


def write_error(text: str) -> None:
    """An error on stderr."""
    click.echo(visible(masked(text)), file=_tolerant(sys.stderr))


def write_traceback() -> None:
    """The traceback of the exception being handled, on stderr."""
    write_error(traceback.format_exc().rstrip("\n"))


def print_json(value: Any) -> None:
    """JSON on stdout and nothing else; ASCII where stdout takes no more."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    click.echo(visible_json(value) if encoding in ("utf-8", "utf8") else json.dumps(value, indent=1))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    left: int = 1,
    grouped: bool = False,
) -> None:
    """A table on stdout; the first `left` columns are text, the others figures.

    grouped: rows that begin with the same cell stand together.
    """
    table = Table(title=visible(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(visible(column), justify="left" if index < left else "right", overflow="fold")
    previous = None
    for first, *others in rows:
        if grouped and previous not in (None, first):
            table.add_section()
        shown = "" if grouped and first == previous else first
        table.add_row(*(visible(str(cell)) for cell in (shown, *others)))
        previous = first
    _tolerant(sys.stdout)
    results.print(table)


def ask_line(prompt: str) -> str:
    """A line that the person types. Raises click.Abort at the end of the input."""
    found: str = click.prompt(visible(prompt), prompt_suffix=" ")
    return found


def ask_passphrase(prompt: str) -> str:
    """What the person types, unseen, on the terminal. Raises click.Abort where there is none."""
    found: str = click.prompt(visible(prompt), hide_input=True, default="", show_default=False, err=True)
    return found


def open_terminal() -> None:
    """Before anything is written: let no output stop for a character that the terminal lacks, and watch what others write."""
    for stream in (sys.stdout, sys.stderr):
        _tolerant(stream)
    logging.setLogRecordFactory(_VisibleRecord)
    warnings.formatwarning = _one_warning
    sys.excepthook = _visible_traceback


class _VisibleRecord(logging.LogRecord):
    """A line of a log: libraries quote file names and what models say."""

    def getMessage(self) -> str:  # noqa: N802 - the name is logging's
        return visible(masked(super().getMessage()))


def _one_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return visible(masked(f"{filename}:{lineno}: {category.__name__}: {message}\n"))


def _visible_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    write_error("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _tolerant(stream: TextIO) -> TextIO:
    """The stream, now writing an escape for what its encoding lacks."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure and getattr(stream, "errors", None) == "strict":
        reconfigure(errors="backslashreplace")
    return stream


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
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    if messages.is_terminal:
        with Progress(*columns, console=messages) as bar:
            task = bar.add_task(on_one_line(label), total=total, note="")

            def advance(count: int = 1, note: str = "") -> None:
                bar.update(task, advance=count)
                if note:
                    bar.update(task, note=on_one_line(note))

            yield advance
        return

    done, shown = 0, -1

    def tell(count: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += count
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            shown = tenth
            say(f"{label}: {done} of {total} {unit} {on_one_line(note)}".rstrip())

    yield tell
