"""Whose caches are used: the keys under [trust] or behind --trust, held against the signatures of a cache."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.console import say
from pipeline.settings import Settings
from stages.errors import CacheError
from stages.logit_cache.reader import LogitCache

if TYPE_CHECKING:
    from stages.logit_cache.keys import PublicKey
    from stages.logit_cache.manifest import Manifest


def trust_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--trust KEY`, as the parameter trust; may be repeated."""
    return click.option(
        "--trust",
        multiple=True,
        metavar="KEY",
        type=click.Path(path_type=Path),
        help="File of public keys, one of which must have signed the cache; may be repeated.",
    )(command)


def trusted(paths: tuple[Path, ...]) -> "list[PublicKey]":
    """The public keys of these files. Raises KeyFileError."""
    from stages.logit_cache.keys import trusted_keys

    return trusted_keys(paths)


def refuse_untrusted(settings: Settings, cache: LogitCache) -> None:
    """Hold the cache to [trust]: with `require` raise CacheError unless one of its keys signed it, without it say so.

    What is held to the signature is the manifest that the cache was opened by.
    """
    from stages.logit_cache.signature import read_signatures, trusted_signer

    if not settings.trust.keys:
        return
    keys = trusted(settings.trust.keys)
    try:
        trusted_signer(cache.folder, cache.manifest, read_signatures(cache.folder), keys)
    except CacheError as error:
        if settings.trust.require:
            raise
        say(f"Warning: {error.found}  (trust.require is off)")


def signer_of(cache: Path, manifest: "Manifest", paths: tuple[Path, ...]) -> str | None:
    """The fingerprint of the trusted key that signed this manifest; None if no key is named. Raises CacheError if none did."""
    from stages.logit_cache.signature import read_signatures, trusted_signer

    if not paths:
        return None
    return trusted_signer(cache, manifest, read_signatures(cache), trusted(paths)).fingerprint


def signed_by(cache: Path, manifest: "Manifest") -> list[tuple[str, bool]]:
    """By fingerprint of each key in the signature file: whether its signature fits this manifest."""
    from stages.logit_cache.signature import read_signatures

    return [(each.key.fingerprint, each.fits(manifest)) for each in read_signatures(cache)]
