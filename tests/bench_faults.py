"""The faults of `make bench-cache`: really done, one after the other, and counted with what came of each.

A cache counts as accepted if the reader takes it after it was altered, and as lost if a writer that was interrupted loses a
finished shard or does not end at the same cache id.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from conftest import ROOT, write_cache
from hostile import CORPUS, overwrite, read_whole

from stages.errors import CacheError
from stages.logit_cache.manifest import SHARDS

MODES = {"kill": "SIGKILL", "cut": "a power cut", "full": "a full disk"}


def fault_lines(folder: Path, seed: int) -> Iterator[tuple[str, str]]:
    """A line per kind of fault: how many were tried, and how many of them did harm."""
    for mode, name in MODES.items():
        tried, lost = interrupted(folder / mode, mode)
        yield f"{name} at any change of the disk: tried, lost", f"{tried}, {lost}"
    sound = folder / "sound"
    write_cache(sound)
    tried, accepted = flipped(sound, seed)
    yield "one flipped bit in each byte of each shard: tried, accepted", f"{tried:,}, {accepted}"
    accepted = sum(accepts(sound, folder / "hostile", name) for name in CORPUS)
    yield "malformed caches of the corpus: tried, accepted", f"{len(CORPUS)}, {accepted}"


def interrupted(folder: Path, mode: str) -> tuple[int, int]:
    """Faults that were met, and how many of them lost something; the first that does ends the count."""
    folder.mkdir()
    script = ROOT / "tests/stages/logit_cache/faulty_disk.py"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ended = subprocess.run(
        [sys.executable, script, mode, folder], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    # One fault at each step, and one after the last; the script ends with code 1 at the first that does harm.
    return (int(ended.stdout) + 1, 0) if ended.returncode == 0 else (1, 1)


def is_accepted(cache: Path) -> bool:
    try:
        read_whole(cache)
    except CacheError:
        return False
    return True


def flipped(sound: Path, seed: int) -> tuple[int, int]:
    """One bit of each byte in turn."""
    rng = np.random.default_rng(seed)
    tried = accepted = 0
    for path in sorted((sound / SHARDS).iterdir()):
        content = path.read_bytes()
        for place, bit in enumerate(rng.integers(0, 8, len(content))):
            changed = bytearray(content)
            changed[place] ^= 1 << int(bit)
            overwrite(path, bytes(changed))
            tried += 1
            accepted += is_accepted(sound)
        overwrite(path, content)
    assert is_accepted(sound), "the cache was not put back as it was"
    return tried, accepted


def accepts(sound: Path, copy: Path, name: str) -> bool:
    """Whether this cache of the corpus is taken."""
    shutil.copytree(sound, copy)
    CORPUS[name](copy)
    taken = is_accepted(copy)
    shutil.rmtree(copy)
    for elsewhere in copy.parent.glob(f"{copy.name}-elsewhere"):
        shutil.rmtree(elsewhere) if elsewhere.is_dir() else elsewhere.unlink()
    return taken
