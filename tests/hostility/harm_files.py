"""Harm to the folder: links, pipes, sockets, folders, other names; and files exchanged between opening and reading."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

from hostility.bases import Files, shard_names, vouched
from hostility.case import Case

from stages.logit_cache.manifest import MANIFEST, SHARDS

Deed = Callable[[Path], object]


def instead(name: str, make: Callable[[Path], object]) -> Deed:
    """Something else under the file's name."""

    def do(cache: Path) -> None:
        path = cache / name
        path.rename(cache.parent / "elsewhere")
        make(path)

    return do


def plug(path: Path) -> None:
    """A Unix socket; its name may not be long, so it is made by a relative one."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(before)


KINDS: dict[str, Callable[[Path], object]] = {
    "a link to itself elsewhere": lambda path: (
        path.symlink_to(path.parents[1] / "elsewhere")
        if path.parent.name != SHARDS
        else path.symlink_to(path.parents[2] / "elsewhere")
    ),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "a socket": plug,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "nothing": lambda path: None,
}
EXTRAS = (
    "run.sh",
    "shards/shard-00009.parquet",
    ".hidden",
    "shards/.hidden",
    "manifest.json~",
    "MANIFEST.JSON",
    "a\nb",
    "\udcff",
)


def harm(rng: Random, files: Files) -> Case:
    """One deed, before the cache is opened or after."""
    name = rng.choice([MANIFEST, SHARDS, *shard_names(files)])
    match rng.choice(["instead", "extra", "exchanged", "exchanged", "in place"]):
        case "instead":
            kind = rng.choice(list(KINDS))
            return Case(f"{kind} for {name}", files, on_disk=instead(name, KINDS[kind]), sound=False)
        case "extra":
            extra = rng.choice(EXTRAS)
            make = rng.choice(
                [lambda path: path.touch(), os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to("/")]
            )
            return Case(f"an extra {extra!r}", files, on_disk=lambda cache: make(cache / extra), sound=False)
        case "exchanged":
            return exchanged(rng, files)
        case _:
            return rewritten(rng, files)


def exchanged(rng: Random, files: Files) -> Case:
    """Another shard, as sound as the first, is renamed over one after the cache was opened."""
    one, other = rng.sample(shard_names(files), 2)
    content = changed_like(rng, files, one, other)

    def between(cache: Path) -> None:
        new = cache.parent / "new"
        new.write_bytes(content)
        os.replace(new, cache / one)

    return Case("a shard is exchanged between opening and reading", files, between=between)


def rewritten(rng: Random, files: Files) -> Case:
    """The same in place, at the same length, with the times as they were."""
    name = rng.choice(shard_names(files))
    content = bytearray(files[name])
    for _ in range(rng.choice([1, 20])):
        content[rng.randrange(len(content))] = rng.randrange(256)

    def between(cache: Path) -> None:
        path = cache / name
        before = path.stat()
        with open(path, "r+b") as file:
            file.write(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return Case("a shard is rewritten in place after opening", files, between=between)


def changed_like(rng: Random, files: Files, one: str, other: str) -> bytes:
    """A whole shard of the same schema: another one of the cache, or this one with other values in its rows."""
    from hostility import harm_rows

    if rng.random() < 0.4:
        return files[other]
    for _ in range(5):
        case = harm_rows.harm(
            rng, {name: content for name, content in files.items() if name in (MANIFEST, one)} | files
        )
        if case.files[one] != files[one]:
            return case.files[one]
    return vouched(files)[other]
