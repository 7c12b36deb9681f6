"""`duet`: the list of commands, and how an expected error is shown.

Importing it loads neither torch nor an engine; each command does when it runs.
"""

from typing import Any

import click

from pipeline import __version__
from pipeline.ask import ask
from pipeline.audit import audit
from pipeline.cache import cache
from pipeline.compare import compare
from pipeline.console import open_terminal, write_error, write_traceback
from pipeline.default_model import default_model
from pipeline.distill import distill
from pipeline.evaluate import evaluate
from pipeline.finetune import finetune
from pipeline.prefixes import prefixes
from pipeline.report import report
from pipeline.results import results
from pipeline.settings_command import settings_command
from pipeline.sweep import sweep
from pipeline.teacher_cache import teacher_cache
from stages.errors import DuetError
from stages.visible import visible


class DuetGroup(click.Group):
    """Shows a DuetError as one message, and ends with its exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        open_terminal()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DuetError as error:
            if ctx.params.get("debug"):
                write_traceback()
            write_error(f"Error: {error}")
            ctx.exit(error.exit_code)
        except click.ClickException as error:
            # A name on the command line may be that of a file from elsewhere.
            error.message = visible(error.message)  # type: ignore[misc]
            raise


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
