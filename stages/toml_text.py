"""Settings in, a TOML file that reads back as the same out."""

import json
from collections.abc import Mapping
from typing import Any


def toml_text(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """`[section]` by section, tables within one after its values; what is None is left to its default.

    Values are what JSON can hold: its strings, numbers, lists and booleans are TOML's, but for keys, which are quoted.
    """
    lines: list[str] = []
    for section, values in sections.items():
        plain = {key: value for key, value in values.items() if not isinstance(value, Mapping) and value is not None}
        lines += ["", f"[{section}]", *(f"{_key(key)} = {toml_value(value)}" for key, value in plain.items())]
        for key, inner in values.items():
            if isinstance(inner, Mapping):
                lines += ["", f"[{section}.{_key(key)}]"]
                lines += [f"{_key(name)} = {toml_value(value)}" for name, value in inner.items() if value is not None]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def toml_value(value: Any) -> str:
    """One value as TOML writes it, on one line."""
    # The one character that JSON leaves as it is and TOML forbids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
