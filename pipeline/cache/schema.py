"""`duet cache schema`: the manifest's JSON Schema."""

import click

from pipeline.console import print_json
from stages.logit_cache.manifest import Manifest


@click.command()
def schema() -> None:
    """Print the JSON Schema of a cache's manifest.json, for validators in other languages.

    \b
    Example:  duet cache schema > cache-manifest.schema.json
    """
    print_json(Manifest.model_json_schema())
