"""`duet cache pull`: a cache from another file system, checked whole on arrival."""

from pathlib import Path

import click

from pipeline.cache.shared import json_option, report
from pipeline.console import say
from pipeline.settings import load_settings
from pipeline.trust import trust_option, trusted
from stages.logit_cache.transfer import pull as pull_cache
from stages.visible import on_one_line


@click.command()
@click.argument("url")
@click.argument("cache", type=click.Path(path_type=Path))
@trust_option
@click.option("--config", metavar="FILE|PRESET", help="Settings whose [trust] says who must have signed the cache.")
@json_option
def pull(url: str, cache: Path, trust: tuple[Path, ...], config: str | None, as_json: bool) -> None:
    """Fetch the cache at URL into the folder CACHE. Given again, it fetches only what is missing.

    Nothing in it is trusted: sizes are bounded, hashes compared and rows checked before it counts. With --trust, or with
    trust.require in the settings, no shard is fetched unless one of these keys signed the manifest.

    \b
    Example:
      duet cache pull s3://team/caches/demo cache/demo
      duet cache pull s3://team/caches/demo cache/demo --trust team.pub
    """
    settings = load_settings(config).trust if config else None
    paths = (*trust, *(settings.keys if settings and settings.require else ()))
    manifest = pull_cache(url, cache, trusted=trusted(paths))
    report(cache, manifest, as_json)
    if manifest.sensitivity:
        say(f"Its owner says of its sensitivity: {on_one_line(manifest.sensitivity)}")
