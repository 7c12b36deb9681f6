"""A disk that fails at a chosen step, under the real writer; `python faulty_disk.py MODE FOLDER`, see test_crash.py.

Every change of the disk is a step: an opened file, the first and the second half of a write, an fsync, a rename, a new
folder, a removed file, changed permissions. For each step in turn a forked process writes the cache of
`conftest.write_cache` and meets the fault; a second one looks at what is left, gives the same command again, and looks at
that. Modes:
  kill  SIGKILL: what was done stays.
  cut   a power cut: what was not fsynced is lost. Files lose half of what was written, folders their new names.
  full  the disk is full from that step on; the process lives to tell.
After the last step comes one more fault: what the writer has reported as done must survive it, too.
Prints the number of steps; or what went wrong at one of them, and ends with code 1.
"""

import errno
import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import make_fingerprint, make_provenance, make_row, write_cache

from stages.errors import CacheError
from stages.folder_lock import LOCK
from stages.logit_cache.manifest import HASHES, MANIFEST, PLAN, SHARDS, Prefix
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.writer import CacheWriter

IGNORABLE = {LOCK, PLAN, HASHES, SHARDS}
ROWS, SHARD_ROWS = 10, 4
PLANNED = Plan(fingerprint=make_fingerprint(ROWS), rows=ROWS, shard_rows=SHARD_ROWS)


class FaultyDisk:
    """Stands between this process and the disk, below one folder. fault_at: the first step that fails, from 1."""

    def __init__(self, mode: str, below: Path, fault_at: int) -> None:
        self.mode, self.below, self.fault_at = mode, below, fault_at
        self.steps = 0
        self.unsynced_files: dict[Path, int] = {}  # bytes of each that are on the disk
        self.unsynced_names: list[tuple[Path, Callable[[], object]]] = []  # folder, how to undo the change in it
        self.written: dict[int, Path] = {}  # by descriptor, until it is made a file object
        self.real = {
            name: getattr(os, name) for name in ("open", "fdopen", "fsync", "replace", "mkdir", "unlink", "chmod")
        }

    def install(self) -> None:
        for name in self.real:
            setattr(os, name, getattr(self, name))

    def step(self) -> None:
        self.steps += 1
        if self.steps < self.fault_at:
            return
        if self.mode == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fail()

    def fail(self) -> None:
        if self.mode == "cut":
            for folder, undo in reversed(self.unsynced_names):
                if folder.is_dir():
                    undo()
            for path, synced in self.unsynced_files.items():
                if path.is_file():
                    os.truncate(path, (synced + path.stat().st_size) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path: Any, flags: int, *more: Any, **options: Any) -> int:
        path, is_new = Path(path), bool(flags & os.O_CREAT) and not Path(path).exists()
        if self.below in path.parents and is_new:
            self.step()
            self.unsynced_names.append((path.parent, lambda: path.exists() and self.real["unlink"](path)))
        descriptor: int = self.real["open"](path, flags, *more, **options)
        if self.below in path.parents and flags & os.O_WRONLY:
            self.written[descriptor] = path
        return descriptor

    def fdopen(self, descriptor: int, mode: str = "r", *more: Any, **options: Any) -> Any:
        path = self.written.pop(descriptor, None)
        if path is None:
            return self.real["fdopen"](descriptor, mode, *more, **options)
        return SteppedFile(self, descriptor, path)

    def fsync(self, descriptor: int) -> None:
        self.step()
        self.real["fsync"](descriptor)
        synced = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.unsynced_files.pop(synced, None)
        self.unsynced_names = [each for each in self.unsynced_names if each[0] != synced]

    def replace(self, source: Any, target: Any) -> None:
        self.step()
        source, target = Path(source), Path(target)
        before = target.read_bytes() if target.exists() else None

        def undo() -> None:
            self.real["replace"](target, source)
            if before is not None:
                target.write_bytes(before)

        self.real["replace"](source, target)
        if source in self.unsynced_files:
            self.unsynced_files[target] = self.unsynced_files.pop(source)
        self.unsynced_names.append((target.parent, undo))

    def mkdir(self, path: Any, *more: Any) -> None:
        self.step()
        self.real["mkdir"](path, *more)
        self.unsynced_names.append((Path(path).parent, lambda: shutil.rmtree(path)))

    def unlink(self, path: Any, *more: Any, **options: Any) -> None:
        if self.mode != "full":  # a full disk lets one remove
            self.step()
        path = Path(path)
        content = path.read_bytes() if path.exists() else None
        self.real["unlink"](path, *more, **options)
        if content is not None:
            self.unsynced_names.append((path.parent, lambda: path.write_bytes(content)))

    def chmod(self, path: Any, *more: Any, **options: Any) -> None:
        if self.mode != "full":
            self.step()
        self.real["chmod"](path, *more, **options)


class SteppedFile(io.FileIO):
    """A file whose every write reaches the disk at once, in two steps."""

    def __init__(self, disk: FaultyDisk, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "w")
        self.disk, self.path = disk, path
        self.synced = os.fstat(descriptor).st_size
        # A new file is not on the disk, either.
        disk.unsynced_files[path] = self.synced

    def write(self, content: Any) -> int:
        content = bytes(content)
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            if part:
                self.disk.step()
                self.disk.unsynced_files.setdefault(self.path, self.synced)
                super().write(part)
        return len(content)


def write(report: Callable[[str], object], mode: str, cache: Path, fault_at: int) -> None:
    """Write the cache on a faulty disk. Reports `s` for each shard that is done, `m` for the manifest, then the steps."""
    disk = FaultyDisk(mode, cache.parent.parent, fault_at)
    disk.install()
    try:
        with CacheWriter(cache, PLANNED) as writer:
            for index in writer.missing:
                writer.write(index, [make_row(row, PLANNED.fingerprint) for row in PLANNED.shard_range(index)])
                report("s")
            writer.publish(Prefix(text="prefix", token_ids=[1, 2]), make_provenance(SHARD_ROWS), None, None)
            report("m")
    except CacheError as error:
        assert mode == "full" and "There is no room" in str(error), error
        return
    report(str(disk.steps))
    disk.fail()


def look(report: Callable[[str], object], cache: Path, reference: Path, shards: int, finished: bool) -> None:
    """Assert what must hold after any fault, then finish the cache on a sound disk and compare.

    shards, finished: what the writer had reported as done.
    """
    sound = {path.name: path.read_bytes() for path in (reference / SHARDS).iterdir()}
    kept = {}
    for path in cache.rglob("*"):
        if path.suffix == ".parquet":
            assert path.read_bytes() == sound[path.name], f"{path.name} is not whole"
            kept[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
        else:
            assert path.name in IGNORABLE | {MANIFEST} or path.suffix == ".partial", f"{path.name} is left over"
    assert len(kept) >= shards, "a shard that was reported as done is lost"
    if (cache / MANIFEST).exists():
        assert LogitCache(cache).manifest == LogitCache(reference).manifest
    else:
        assert not finished, "a manifest that was reported as done is lost"
        with CacheWriter(cache, PLANNED) as writer:
            assert len(writer.missing) == len(sound) - len(kept), "a whole shard is written again"
    write_cache(cache, ROWS, SHARD_ROWS)
    assert LogitCache(cache).manifest == LogitCache(reference).manifest
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept, "a whole shard was touched"
    assert {path.name for path in cache.iterdir()} == {MANIFEST, SHARDS, LOCK}, "something is left over at the end"
    assert {path.name for path in (cache / SHARDS).iterdir()} == set(sound)


def in_fork(function: Callable[..., object], *arguments: object) -> str:
    """What function reported before it returned, or before it was killed. Any other end ends this process, too."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            function(lambda text: os.write(writing, text.encode()), *arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        reported = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) not in (0, -signal.SIGKILL):
        sys.exit(f"failed: {function.__name__} {arguments}")
    return reported


def main(mode: str, folder: Path) -> None:
    # Nothing of Arrow's may run in this process: its threads would not survive a fork.
    in_fork(lambda report: write_cache(folder / "reference", ROWS, SHARD_ROWS))
    # Two levels of new folders, since their names must be durable, too.
    fault_at, steps, cache = 0, "", folder / "disk" / "new" / "cache"
    while not steps:
        fault_at += 1
        (folder / "disk").mkdir()
        reported = in_fork(write, mode, cache, fault_at)
        steps = reported.lstrip("sm")
        in_fork(look, cache, folder / "reference", reported.count("s"), "m" in reported)
        shutil.rmtree(folder / "disk")
    print(steps)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
