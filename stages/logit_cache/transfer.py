"""A cache to another file system and back: S3, Google Cloud Storage, a model hub, ssh, a mounted disk.

Shards first, manifest last, so that a cache under way is never taken for one. Every file is hashed where it arrives;
what is there already and right is not sent again. What comes from elsewhere is bounded before it is fetched, checked row
by row, and counts only when all of it is.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from stages.errors import CacheError, OutputExists
from stages.files import TEMPORARY_SUFFIX, make_own_folder, open_new, open_plain, sync_folder
from stages.folder_lock import LOCK
from stages.logit_cache.keys import PublicKey
from stages.logit_cache.manifest import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    SHARDS,
    SIGNATURE,
    Manifest,
    Shard,
    extra_files,
    parse_manifest,
    publish_bytes,
    read_manifest,
)
from stages.logit_cache.reader import Examples, LogitCache, check_file, check_shard
from stages.logit_cache.remote import Remote
from stages.logit_cache.shard_reader import splits_fault
from stages.logit_cache.signature import (
    LARGEST_SIGNATURE_BYTES,
    Signature,
    joined,
    parse_signatures,
    read_signatures,
    signature_bytes,
    trusted_signer,
    write_signatures,
)
from stages.logit_cache.writer import hold_cache_alone, refuse_full_disk

# What a pull that was interrupted leaves.
OF_A_PULL = {LOCK, SHARDS, SIGNATURE, *(name + TEMPORARY_SUFFIX for name in (MANIFEST, SIGNATURE))}
Advance = Callable[[int], None]


def push(cache: LogitCache, url: str, *, advance: Advance = lambda done: None) -> None:
    """Copy a sound cache to `url`. advance: told the bytes of each shard that has arrived or was there.

    Raises OutputExists if another cache lies there, CacheError if a file does not arrive as it was sent.
    """
    remote, manifest = Remote(url), cache.manifest
    remote.refuse_absent()
    signatures = read_signatures(cache.folder)
    content = _manifest_bytes(cache)
    if (there := _remote_manifest(remote, content)) and there.cache_id != manifest.cache_id:
        raise OutputExists(
            f"{remote.url} already holds another cache, {there.cache_id[:12]}….",
            f"{cache.folder} is {manifest.cache_id[:12]}…; nothing was sent.",
            "Name another URL.",
        )
    for shard in manifest.shards:
        with open_plain(cache.folder / SHARDS / shard.name) as file:
            _send(remote, file, f"{SHARDS}/{shard.name}", shard.sha256)
        advance(shard.bytes)
    # The one id may stand for two manifests, which differ in what changes no row: a signature goes with the one it fits.
    if fitting := [each for each in signatures if each.fits(there or manifest)]:
        _send_signatures(remote, fitting, there or manifest)
    if not there:
        _send(remote, content, MANIFEST, hashlib.sha256(content).hexdigest())


def pull(url: str, cache: Path, *, trusted: Sequence[PublicKey] = (), advance: Advance = lambda done: None) -> Manifest:
    """Fetch the cache at `url` into the folder `cache`, check it whole, and return its manifest.

    A call that was interrupted goes on where it stopped. trusted: of these keys one must have signed the manifest, or no shard
    is fetched; without any, a signature is not asked for. advance: told the bytes of each shard that is here.
    Raises CacheError if there is no cache, if it is not what its manifest says, or nobody who is trusted signed it;
    OutputExists if the folder holds something else.
    """
    remote = Remote(url)
    size = remote.size(MANIFEST)
    if size is None:
        remote.refuse_absent()
        raise CacheError(
            f"{remote.url} holds no {MANIFEST}.",
            "Without one it is no cache, or one that is still being pushed; nothing was fetched.",
            "Check the URL, or push it again to the end.",
        )
    content = remote.bounded(MANIFEST, LARGEST_MANIFEST_BYTES)
    manifest = parse_manifest(content, f"{remote.url}/{MANIFEST}")
    signatures = _remote_signatures(remote)
    if trusted:
        trusted_signer(remote.url, manifest, signatures, trusted)
    _refuse_other_contents(cache, manifest)
    with refuse_full_disk(cache):
        make_own_folder(cache / SHARDS)
        sync_folder(cache.absolute().parent)
        with hold_cache_alone(cache):
            # Again, now that nobody else can change it.
            _refuse_other_contents(cache, manifest)
            is_finished, own = (cache / MANIFEST).exists(), read_signatures(cache)
            examples, splits = Examples(), dict[str, int]()
            for shard in manifest.shards:
                _fetch(remote, cache, shard)
                _check(cache, manifest, shard, examples, splits)
                advance(shard.bytes)
            examples.refuse_repeated(cache)
            if fault := splits_fault(manifest, splits) or manifest.shard_rows_fault():
                raise CacheError(f"{remote.url} {fault}.", "It was not taken for a cache.", "Have it pushed anew.")
            if signatures and (new := joined(own, signatures, manifest)) != own:
                write_signatures(cache, new)
            # Also in place of one that came to lie there meanwhile: it is not the one that was checked.
            if not is_finished:
                publish_bytes(cache, manifest, content)
    return manifest


def _remote_manifest(remote: Remote, own: bytes) -> Manifest | None:
    if remote.size(MANIFEST) is None:
        return None
    content = remote.bounded(MANIFEST, LARGEST_MANIFEST_BYTES)
    # On a file system without atomic writes, an interrupted push leaves the beginning of its manifest.
    return None if own.startswith(content) and own != content else parse_manifest(content, f"{remote.url}/{MANIFEST}")


def _remote_signatures(remote: Remote) -> list[Signature]:
    if remote.size(SIGNATURE) is None:
        return []
    return parse_signatures(remote.bounded(SIGNATURE, LARGEST_SIGNATURE_BYTES), f"{remote.url}/{SIGNATURE}")


def _send_signatures(remote: Remote, own: Sequence[Signature], manifest: Manifest) -> None:
    """Those that others put there stay."""
    there = _remote_signatures(remote)
    if (new := joined(there, own, manifest)) == there:
        return
    content = signature_bytes(new)
    _send(remote, content, SIGNATURE, hashlib.sha256(content).hexdigest())


def _manifest_bytes(cache: LogitCache) -> bytes:
    """The bytes of the manifest that the cache was opened by. Raises CacheError if another has come to lie there since."""
    with open_plain(cache.folder / MANIFEST) as file:
        content = file.read(LARGEST_MANIFEST_BYTES + 1)
    if parse_manifest(content, cache.folder / MANIFEST) != cache.manifest:
        raise CacheError(
            f"{cache.folder / MANIFEST} was exchanged while it was being sent.",
            "What was opened and checked is no longer there, so nothing was sent.",
            "Give the same command again.",
        )
    return content


def _send(remote: Remote, source: BinaryIO | bytes, name: str, sha256: str) -> None:
    size = len(source) if isinstance(source, bytes) else os.fstat(source.fileno()).st_size
    if remote.size(name) == size and remote.sha256(name) == sha256:
        return
    remote.put(source, name)
    if remote.sha256(name) != sha256:
        raise CacheError(
            f"{remote.url}/{name} is not what was sent: its SHA-256 differs.",
            "The manifest was not sent, so what lies there is not taken for a cache.",
            "Give the same command again.",
        )


def _fetch(remote: Remote, cache: Path, shard: Shard) -> None:
    """One shard, at most as long as the manifest says, hashed before it has its name; left alone if it is here already."""
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
    sync_folder(path.parent)


def _check(cache: Path, manifest: Manifest, shard: Shard, examples: Examples, splits: dict[str, int]) -> None:
    """Row by row, also what an earlier call fetched: it may have been stopped before it came to this."""
    try:
        check_shard(cache, manifest, shard, examples, splits)
    except CacheError:
        if not (cache / MANIFEST).exists():  # a finished cache is never mended in place
            (cache / SHARDS / shard.name).unlink(missing_ok=True)
        raise


def _refuse_other_contents(cache: Path, manifest: Manifest) -> None:
    if not cache.exists():
        return
    names = {entry.name for entry in cache.iterdir()} if cache.is_dir() else {"a file"}
    if MANIFEST in names:
        own = read_manifest(cache)
        fault = "the same rows under another manifest" if own != manifest else ""
        if own.cache_id != manifest.cache_id:
            fault = f"another cache, {own.cache_id[:12]}…"
    else:
        is_other = names - OF_A_PULL or extra_files(cache, (shard.name for shard in manifest.shards))
        fault = "something else" if is_other else ""
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
