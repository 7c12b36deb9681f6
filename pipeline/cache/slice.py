"""`duet cache slice`: a smaller cache, without a teacher."""

from pathlib import Path

import click

from pipeline import __version__
from pipeline.cache.shared import folder, json_option, report
from pipeline.command_line import recorded_command
from pipeline.console import progress
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.slicing import slice_cache


@click.command("slice")
@click.argument("cache", type=folder)
@click.option("--k", "top_k", type=click.IntRange(min=1), help="Candidates per position; default: all.")
@click.option("--positions", type=click.IntRange(min=1), help="Positions per row; default: all.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new cache.")
@json_option
def slice_(cache: Path, top_k: int | None, positions: int | None, out: Path, as_json: bool) -> None:
    """Cut CACHE to fewer candidates or positions: what a capture at that size would have given.

    \b
    Example:  duet cache slice cache/large --k 20 --positions 1 --out cache/small
    """
    opened = LogitCache(cache)
    fingerprint = opened.manifest.fingerprint
    with progress("Slicing", len(opened), "rows") as advance:
        manifest = slice_cache(
            opened,
            out,
            top_k=top_k or fingerprint.top_k,
            positions=positions or fingerprint.positions,
            command=recorded_command(),
            duet_version=__version__,
            advance=advance,
        )
    report(out, manifest, as_json)
