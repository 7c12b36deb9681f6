"""`duet settings`: every setting, its default and its meaning; or a file's settings, resolved."""

import json
from typing import Any

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.console import print_json, write
from pipeline.settings import PATHS, Settings, load_settings


@click.command("settings")
@click.option("--config", metavar="FILE|PRESET", help="Show what this file resolves to, as JSON.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting.")
def settings_command(config: str | None, overrides: tuple[str, ...]) -> None:
    """List all settings, or show what a file resolves to."""
    if config:
        print_json(load_settings(config, overrides).model_dump(mode="json"))
        return
    write(PATHS)
    for name, section in Settings.model_fields.items():
        kind: Any = section.annotation
        assert issubclass(kind, BaseModel)
        write(f"\n[{name}]  {(kind.__doc__ or '').splitlines()[0]}")
        for key, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = "required" if default is PydanticUndefined else json.dumps(default, default=str)
            write(f"  {key} = {shown}\n      {field.description}")
