"""`duet cache push`: a frozen cache to another file system."""

import tempfile
from pathlib import Path

import click

from pipeline import __version__
from pipeline.cache.shared import command_line, folder, json_option
from pipeline.console import print_json, progress, say
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.transfer import push as push_cache
from stages.logit_cache.transfer import strip_text


@click.command()
@click.argument("cache", type=folder)
@click.argument("url")
@click.option("--no-text", is_flag=True, help="Leave the queries' text out. Their token ids stay: no anonymisation.")
@json_option
def push(cache: Path, url: str, no_text: bool, as_json: bool) -> None:
    """Copy CACHE to URL: s3://, gs://, hf://, sftp://, or a path. Given again, it sends only what is missing.

    Each file is read back and hashed where it has arrived; the manifest goes last.

    \b
    Example:  duet cache push cache/demo s3://team/caches/demo
    """
    opened = LogitCache(cache)
    with tempfile.TemporaryDirectory(prefix="duet-push-") as temporary:
        if no_text:
            bare = Path(temporary) / "cache"
            strip_text(opened, bare, command=command_line(), duet_version=__version__)
            opened = LogitCache(bare)
            say("The queries' text is left out. Token ids stay and decode to the queries: this is not anonymisation.")
        size = sum(shard.bytes for shard in opened.manifest.shards)
        with progress("Pushing", size, "bytes") as advance:
            push_cache(opened, url, advance=advance)
    if as_json:
        print_json({"url": url, "manifest": opened.manifest.model_dump(mode="json")})
        return
    say(f"{url} holds cache {opened.manifest.cache_id[:12]}.  Fetch it:  duet cache pull {url} cache/NAME")
