"""What a command has left, to compare: every file by its contents, without what two uninterrupted runs do not share."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Tree = dict[str, Any]
# When, how fast and after how many attempts.
PASSING = {"seconds", "resumed_at", "started_at", "seconds_of_parts"}
# TensorBoard names its files by time, machine and process, and begins one for each attempt.
# Python tries a temporary folder with an empty file of such a name, and a kill may come before it is gone.
TRIED = re.compile(r"[a-z0-9_]{8}")
EVENTS = re.compile(r"events\.out\.tfevents\..*")


def tree(folder: Path) -> Tree:
    """By relative path: what stands in a JSON file, else the hash of the file; None for a folder."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = EVENTS.sub("events", str(path.relative_to(folder)))
        if TRIED.fullmatch(name) and path.is_file() and not path.stat().st_size:
            continue
        if path.is_dir() or name.endswith("events"):
            found[name] = None
        elif path.suffix in (".json", ".jsonl"):
            found[name] = [_without(json.loads(line), PASSING) for line in _documents(path)]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(child, keys) for key, child in value.items() if key not in keys}
    return [_without(child, keys) for child in value] if isinstance(value, list) else value


class Expected:
    """Two uninterrupted runs: what they have in common is what any other run must leave."""

    def __init__(self, one: Tree, other: Tree) -> None:
        assert one.keys() == other.keys(), one.keys() ^ other.keys()
        self.one = one
        self.passing = {key for name in one for key in _differing_keys(one[name], other[name])}
        self.untold = {name for name in one if _without(one[name], self.passing) != _without(other[name], self.passing)}

    def differences(self, found: Tree) -> tuple[list[str], list[str]]:
        """What is left behind, and what is missing or differs."""
        left = sorted(found.keys() - self.one.keys())
        differing = [
            name
            for name, value in self.one.items()
            if name not in found
            or (name not in self.untold and _without(value, self.passing) != _without(found[name], self.passing))
        ]
        return left, differing


def _differing_keys(one: Any, other: Any) -> Iterator[str]:
    """Keys of objects whose plain values are not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() & other.keys():
            if isinstance(one[key], dict | list):
                yield from _differing_keys(one[key], other[key])
            elif one[key] != other[key]:
                yield key
    elif isinstance(one, list) and isinstance(other, list):
        for mine, theirs in zip(one, other, strict=False):
            yield from _differing_keys(mine, theirs)
