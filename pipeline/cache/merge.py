"""`duet cache merge`: several topics in one cache."""

from pathlib import Path

import click

from pipeline import __version__
from pipeline.cache.shared import folder, json_option, report
from pipeline.command_line import recorded_command
from pipeline.console import progress
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.reader import LogitCache


@click.command()
@click.argument("caches", nargs=-1, required=True, type=folder)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new cache.")
@json_option
def merge(caches: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join CACHES of one teacher. Examples that two of them hold differently are refused and listed.

    \b
    Example:  duet cache merge cache/capitals cache/potter --out cache/both
    """
    if len(caches) < 2:
        raise click.UsageError("Two caches or more were needed.")
    opened = [LogitCache(each) for each in caches]
    with progress("Merging", sum(map(len, opened)), "rows") as advance:
        manifest = merge_caches(opened, out, command=recorded_command(), duet_version=__version__, advance=advance)
    report(out, manifest, as_json)
