"""`duet`: the list of commands, and how an expected error is shown.

Importing it loads neither torch nor an engine; each command does when it runs.
"""

import sys
from collections.abc import Sequence
from typing import Any

import click

from pipeline import __version__
from pipeline.ask import ask
from pipeline.audit import audit
from pipeline.cache import cache
from pipeline.compare import compare
from pipeline.console import open_terminal, write_traceback
from pipeline.default_model import default_model
from pipeline.distill import distill
from pipeline.ending import REFUSALS, flush_stdout, nobody_reads, refusal_in, refused, stopped, tell
from pipeline.evaluate import evaluate
from pipeline.finetune import finetune
from pipeline.prefixes import prefixes
from pipeline.report import report
from pipeline.results import results
from pipeline.settings_command import settings_command
from pipeline.sweep import sweep
from pipeline.teacher_cache import teacher_cache
from stages.errors import DuetError, OutputUnwritable, Stopped
from stages.interruption import (
    code_of,
    end_quietly,
    is_one_of_many,
    listen,
    open_standard_streams,
    received,
    stop_listening,
)
from stages.visible import visible

# Where a context keeps the arguments that it was made from.
GIVEN = "pipeline.given"


class DuetGroup(click.Group):
    """The one door through which a command ends: each expected error, refusal of the machine and signal is one message."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:
        is_process = args is None
        given = list(sys.argv[1:] if args is None else args)
        if is_process:
            open_standard_streams()
            listen()
        open_terminal()
        try:
            return super().main(given, *more, **named)
        except OSError as error:  # while click itself printed something, such as the help
            if error.errno not in REFUSALS:
                raise
            tell(str(refused(error, given)))
            sys.exit(OutputUnwritable.exit_code)
        except SystemExit as end:
            if is_process and received and isinstance(end.code, int):
                end_quietly(end.code)
            raise
        finally:
            if is_process:
                flush_stdout()
                stop_listening()

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)  # click takes the words away as it reads them
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[GIVEN] = given
        return context

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, SystemExit):
            raise
        except click.ClickException as error:
            # A name on the command line may be that of a file from elsewhere.
            error.message = visible(error.message)  # type: ignore[misc]
            raise
        # Wide on purpose: a signal may reach us as an exception of the library that it interrupted. All else goes on.
        except BaseException as error:
            shown = ending(error, ctx.meta[GIVEN])
            if shown is None:
                raise
            if ctx.params.get("debug"):
                write_traceback()
            message, code = shown
            tell(message)
            ctx.exit(code)


def ending(error: BaseException, given: Sequence[str]) -> tuple[str, int] | None:
    """What is said at the end of a command that failed so, and its exit code; None for a fault that nobody expects."""
    code = error.exit_code if isinstance(error, Stopped) else code_of(error)
    if code is not None:
        # Of several training processes that one command started, that one speaks.
        told = str(error) if isinstance(error, Stopped) else stopped(code, given)
        return "" if is_one_of_many() else f"Error: {told}", code
    if nobody_reads(error):
        return "", 1
    if (refusal := refusal_in(error)) is not None:
        error = refused(refusal, given)
    return (f"Error: {error}", error.exit_code) if isinstance(error, DuetError) else None


@click.group(cls=DuetGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="duet")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def duet(debug: bool) -> None:
    """Make a language model forget, from queries alone.

    \b
    1. duet teacher-cache   the prefixed teacher's Top-K raw logits -> a frozen cache
    2. duet distill         the cache -> a model without the prefix that behaves as with it
    3. duet evaluate        base, teacher and student side by side
    4. duet audit           is it really forgotten? attacks, quantisation, layers, relearning
    5. duet report          all of it on one page
    """


for command in (
    default_model,
    prefixes,
    teacher_cache,
    distill,
    evaluate,
    audit,
    finetune,
    sweep,
    compare,
    report,
    results,
    cache,
    ask,
    settings_command,
):
    duet.add_command(command)
