"""`duet cache pull`: a cache from another file system, checked whole on arrival."""

from pathlib import Path

import click

from pipeline.cache.shared import json_option, report
from pipeline.console import say
from stages.logit_cache.transfer import pull as pull_cache


@click.command()
@click.argument("url")
@click.argument("cache", type=click.Path(path_type=Path))
@json_option
def pull(url: str, cache: Path, as_json: bool) -> None:
    """Fetch the cache at URL into the folder CACHE. Given again, it fetches only what is missing.

    Nothing in it is trusted: sizes are bounded, hashes compared and rows checked before it counts.

    \b
    Example:  duet cache pull s3://team/caches/demo cache/demo
    """
    manifest = pull_cache(url, cache)
    report(cache, manifest, as_json)
    if manifest.sensitivity:
        say(f"Its owner says of its sensitivity: {manifest.sensitivity}")
