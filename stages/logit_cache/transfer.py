"""A cache to another file system and back: S3, Google Cloud Storage, a model hub, ssh, a mounted disk.

Shards first, manifest last, so that a cache under way is never taken for one. Every file is hashed where it arrives;
what is there already and right is not sent again. What comes from elsewhere is bounded before it is fetched, checked row
by row, and counts only when all of it is.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec

from stages.errors import CacheError, DuetError, OutputExists
from stages.files import TEMPORARY_SUFFIX, make_own_folder, open_new, sync_folder
from stages.folder_lock import LOCK
from stages.logit_cache.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    SHARDS,
    Manifest,
    Shard,
    parse_manifest,
    publish_bytes,
    read_manifest,
)
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache, check_file, open_shard, read_group
from stages.logit_cache.slicing import derived
from stages.logit_cache.writer import CacheWriter, hold_cache_alone, refuse_full_disk

PIECE_BYTES = 4 * 2**20
Advance = Callable[[int], None]


class Remote:
    """A folder on any fsspec file system. Every failure there becomes a CacheError that names the URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with self._named():
            self.files, self.root = fsspec.core.url_to_fs(self.url)

    def size(self, name: str) -> int | None:
        """Bytes of the file, or None if there is none."""
        with self._named():
            self.files.invalidate_cache()
            try:
                found = self.files.info(self._path(name))
            except FileNotFoundError:
                return None
            if found["type"] != "file":
                raise CacheError(f"{self.url}/{name} is not a file.", "A logit cache holds plain files only.")
            return int(found["size"])

    def pieces(self, name: str) -> Iterator[bytes]:
        """The file's bytes, a few MB at a time."""
        with self._named(), self.files.open(self._path(name), "rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def sha256(self, name: str) -> str:
        """SHA-256 of what lies there, read back."""
        digest = hashlib.sha256()
        for piece in self.pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def put(self, source: Path, name: str) -> None:
        """Write a local file there."""
        with self._named():
            self.files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(source), self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DuetError:
            raise
        except (ImportError, ValueError) as error:
            raise CacheError(
                f"{self.url} cannot be opened: {error}",
                "A URL was needed whose file system fsspec knows: s3://, gs://, hf://, sftp://, file:// or a path.",
                "Install the package that it names, or use another URL.",
            ) from error
        except Exception as error:  # each file system has errors of its own
            raise CacheError(
                f"{self.url}: {type(error).__name__}: {error}",
                "What had arrived stays there; without a manifest it is not taken for a cache.",
                "See to access or network, then give the same command again: it does only the rest.",
            ) from error


def push(cache: LogitCache, url: str, *, advance: Advance = lambda done: None) -> None:
    """Copy a sound cache to `url`. advance: told the bytes of each shard that has arrived or was there.

    Raises OutputExists if another cache lies there, CacheError if a file does not arrive as it was sent.
    """
    remote, manifest = Remote(url), cache.manifest
    if (there := _remote_manifest(remote, cache.folder / MANIFEST)) and there.cache_id != manifest.cache_id:
        raise OutputExists(
            f"{remote.url} already holds another cache, {there.cache_id[:12]}….",
            f"{cache.folder} is {manifest.cache_id[:12]}…; nothing was sent.",
            "Name another URL.",
        )
    for shard in manifest.shards:
        _send(remote, cache.folder / SHARDS / shard.name, f"{SHARDS}/{shard.name}", shard.sha256)
        advance(shard.bytes)
    if not there:
        content = (cache.folder / MANIFEST).read_bytes()
        _send(remote, cache.folder / MANIFEST, MANIFEST, hashlib.sha256(content).hexdigest())


def pull(url: str, cache: Path, *, advance: Advance = lambda done: None) -> Manifest:
    """Fetch the cache at `url` into the folder `cache`, check it whole, and return its manifest.

    A call that was interrupted goes on where it stopped. advance: told the bytes of each shard that is here.
    Raises CacheError if there is no cache, or if it is not what its manifest says; OutputExists if the folder holds
    something else.
    """
    remote = Remote(url)
    size = remote.size(MANIFEST)
    if size is None:
        raise CacheError(
            f"{remote.url} holds no {MANIFEST}.",
            "Without one it is no cache, or one that is still being pushed; nothing was fetched.",
            "Check the URL, or push it again to the end.",
        )
    content = _bounded(remote, MANIFEST, LARGEST_MANIFEST_BYTES)
    manifest = parse_manifest(content, f"{remote.url}/{MANIFEST}")
    _refuse_other_contents(cache, manifest)
    with refuse_full_disk(cache):
        make_own_folder(cache / SHARDS)
        sync_folder(cache.absolute().parent)
        with hold_cache_alone(cache):
            for shard in manifest.shards:
                _fetch(remote, cache, manifest, shard)
                advance(shard.bytes)
            if not (cache / MANIFEST).exists():
                publish_bytes(cache, manifest, content)
    return read_manifest(cache)


def strip_text(cache: LogitCache, out: Path, *, command: list[str], duet_version: str) -> Manifest:
    """Write the cache without its queries' text to `out`. Token ids stay, and decode to the queries: no anonymisation."""
    source = cache.manifest
    plan = Plan(fingerprint=source.fingerprint, rows=source.rows, shard_rows=source.provenance.shard_rows)
    with CacheWriter(out, plan) as writer:
        for index in writer.missing:
            writer.write(index, [replace(cache.row(row), query="") for row in plan.shard_range(index)])
        return writer.publish(source.prefix, derived(source, command, duet_version), source.licence, source.sensitivity)


def _remote_manifest(remote: Remote, own: Path) -> Manifest | None:
    if remote.size(MANIFEST) is None:
        return None
    content = _bounded(remote, MANIFEST, LARGEST_MANIFEST_BYTES)
    # On a file system without atomic writes, an interrupted push leaves the beginning of its manifest.
    mine = own.read_bytes()
    return None if mine.startswith(content) and mine != content else parse_manifest(content, f"{remote.url}/{MANIFEST}")


def _send(remote: Remote, source: Path, name: str, sha256: str) -> None:
    if remote.size(name) == source.stat().st_size and remote.sha256(name) == sha256:
        return
    remote.put(source, name)
    if remote.sha256(name) != sha256:
        raise CacheError(
            f"{remote.url}/{name} is not what was sent: its SHA-256 differs.",
            "The manifest was not sent, so what lies there is not taken for a cache.",
            "Give the same command again.",
        )


def _fetch(remote: Remote, cache: Path, manifest: Manifest, shard: Shard) -> None:
    """One shard, at most as long as the manifest says, hashed and checked row by row before it has its name."""
    path = cache / SHARDS / shard.name
    if path.is_symlink() or path.exists():
        try:
            check_file(cache, shard)
        except CacheError:
            if (cache / MANIFEST).exists():
                raise  # finished here, and altered since: never mended in place
            path.unlink()
        else:
            return
    content, temporary = hashlib.sha256(), path.with_name(path.name + TEMPORARY_SUFFIX)
    name = f"{SHARDS}/{shard.name}"
    try:
        if remote.size(name) != shard.bytes:
            raise _not_as_promised(remote, name, f"is missing, or has not the {shard.bytes:,} bytes of the manifest")
        received = 0
        with open_new(temporary) as file:
            for piece in remote.pieces(name):
                if (received := received + len(piece)) > shard.bytes:
                    break
                content.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if received != shard.bytes or content.hexdigest() != shard.sha256:
            raise _not_as_promised(remote, name, "has another SHA-256 than the manifest says")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    try:
        opened, groups = open_shard(cache, shard, manifest.fingerprint)
        with opened:
            for group in range(len(groups)):
                read_group(opened, group, shard, manifest.fingerprint)
    except CacheError:
        path.unlink()
        raise
    sync_folder(path.parent)


def _bounded(remote: Remote, name: str, most: int) -> bytes:
    content = bytearray()
    for piece in remote.pieces(name):
        content += piece
        if len(content) > most:
            raise CacheError(f"{remote.url}/{name} has more than {most:,} bytes.", "That is no manifest.")
    return bytes(content)


def _refuse_other_contents(cache: Path, manifest: Manifest) -> None:
    if not cache.exists():
        return
    names = {entry.name for entry in cache.iterdir()} if cache.is_dir() else {"a file"}
    if MANIFEST in names:
        own = read_manifest(cache).cache_id
        fault = f"another cache, {own[:12]}…" if own != manifest.cache_id else ""
    else:
        fault = "something else" if names - {LOCK, SHARDS, MANIFEST + TEMPORARY_SUFFIX} else ""
    if fault:
        raise OutputExists(
            f"{cache} already holds {fault}.", "Nothing was fetched.", "Name another folder, or move that one away."
        )


def _not_as_promised(remote: Remote, name: str, what: str) -> CacheError:
    return CacheError(
        f"{remote.url}/{name} {what}.",
        "It was not kept; shards that came whole stay.",
        "Give the same command again; if it fails again, have the cache pushed anew.",
    )
