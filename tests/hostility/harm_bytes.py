"""Harm without a plan: bits, bytes, slices and pieces of shards, the manifest vouching for most of what comes of it."""

from collections.abc import Callable
from random import Random

from hostility.bases import Files, shard_names, vouched
from hostility.case import Case


def flip(rng: Random, content: bytearray) -> bytearray:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def overwrite(rng: Random, content: bytearray) -> bytearray:
    content[rng.randrange(len(content))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return content


def insert(rng: Random, content: bytearray) -> bytearray:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice([1, 2, 8, 300])) + content[at:]


def delete(rng: Random, content: bytearray) -> bytearray:
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice([1, 2, 8, 300]) :]


def splice(rng: Random, content: bytearray) -> bytearray:
    """A piece of the file over another of its places."""
    length = rng.choice([1, 4, 16, 100])
    start, to = rng.randrange(len(content)), rng.randrange(len(content))
    piece = content[start : start + length]
    return content[:to] + piece + content[to + len(piece) :]


def zeros(rng: Random, content: bytearray) -> bytearray:
    """A hole, as a file system leaves after a crash."""
    at, length = rng.randrange(len(content)), rng.choice([16, 512, 4096])
    content[at : at + length] = bytes(len(content[at : at + length]))
    return content


def truncate(rng: Random, content: bytearray) -> bytearray:
    return content[: rng.randrange(len(content))]


def in_footer(rng: Random, content: bytearray) -> bytearray:
    """A byte of the footer, its length or its mark: what says how much to read and to allocate."""
    length = int.from_bytes(content[-8:-4], "little") if len(content) > 8 else 1
    content[max(len(content) - 1 - rng.randrange(length + 8), 0)] = rng.randrange(256)
    return content


KINDS: tuple[Callable[[Random, bytearray], bytearray], ...] = (
    flip, overwrite, insert, delete, splice, zeros, truncate, in_footer, in_footer,
)  # fmt: skip


def harm(rng: Random, files: Files) -> Case:
    """One to four changes of one shard; now and then its bytes are not vouched for."""
    name = rng.choice(shard_names(files))
    content, done = bytearray(files[name]), []
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind = rng.choice(KINDS)
        done.append(kind.__name__)
        content = kind(rng, content or bytearray(1))
    changed = {**files, name: bytes(content)}
    if rng.random() < 0.9:
        changed = vouched(changed)
    return Case(", ".join(done), changed)
