"""`duet cache …`: look at caches, check them, cut them, join them, move them, sign them. One module per command."""

import click

from pipeline.cache.diff import diff
from pipeline.cache.merge import merge
from pipeline.cache.pull import pull
from pipeline.cache.push import push
from pipeline.cache.schema import schema
from pipeline.cache.show import show
from pipeline.cache.sign import sign
from pipeline.cache.slice import slice_
from pipeline.cache.verify import verify


@click.group()
def cache() -> None:
    """Look at frozen caches, check them, cut them, join them and move them."""


for command in (show, verify, slice_, merge, diff, push, pull, sign, schema):
    cache.add_command(command)
