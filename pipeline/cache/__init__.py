"""`duet cache …`: look at caches, check them, cut them, join them, move them. One module per command."""

import click


@click.group()
def cache() -> None:
    """Look at frozen caches, check them, cut them, join them and move them."""
