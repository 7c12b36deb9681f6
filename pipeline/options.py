"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--config` and `--set`, as parameters config and overrides."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; may be repeated."
    )(command)
    return click.option(
        "--config", required=True, metavar="FILE|PRESET", help="Settings: a TOML file or the name of a preset."
    )(command)
