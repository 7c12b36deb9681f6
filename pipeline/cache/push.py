"""`duet cache push`: a frozen cache to another file system."""

from pathlib import Path

import click

from pipeline.cache.shared import folder, json_option
from pipeline.console import print_json, progress, say
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.stripping import REMOVED, STAYS, strip_text
from stages.logit_cache.transfer import push as push_cache
from stages.masking import masked
from stages.scratch import scratch_folder


@click.command()
@click.argument("cache", type=folder)
@click.argument("url")
@click.option("--no-text", is_flag=True, help=f"Leave out {REMOVED} {STAYS}")
@json_option
def push(cache: Path, url: str, no_text: bool, as_json: bool) -> None:
    """Copy CACHE to URL: s3://, gs://, hf://, sftp://, or a path. Given again, it sends only what is missing.

    Each file is read back and hashed where it has arrived; the manifest goes last. It goes as it is, with the prefix and the
    teacher's name. Nothing but shards, manifest and signatures is sent. No bucket is ever made.

    \b
    Example:  duet cache push cache/demo s3://team/caches/demo
    """
    opened = LogitCache(cache)
    with scratch_folder("push") as scratch:
        if no_text:
            bare = scratch / "cache"
            strip_text(opened, bare)
            opened = LogitCache(bare)
            say(f"Left out: {REMOVED}\n  {STAYS}")
        size = sum(shard.bytes for shard in opened.manifest.shards)
        with progress("Pushing", size, "bytes") as advance:
            push_cache(opened, url, advance=advance)
    if as_json:
        print_json({"url": masked(url), "manifest": opened.manifest.model_dump(mode="json")})
        return
    say(
        f"{masked(url)} holds cache {opened.manifest.cache_id[:12]}.  Fetch it:  duet cache pull {masked(url)} cache/NAME"
    )
