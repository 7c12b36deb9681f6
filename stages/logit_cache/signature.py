"""`manifest.sig`: who vouches for a cache. A manifest and key files in, signatures out, and back.

A signature covers the manifest that was read, field by field, and through its hashes every shard. It says who signed, not that
what they signed is harmless. The file lies beside the manifest and is no part of the cache: it may come later, and hold several.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field

from stages.errors import CacheError, DataError, OutputUnwritable
from stages.files import make_read_only, open_plain, write_atomically
from stages.logit_cache.keys import PublicKey, public_half, public_key
from stages.logit_cache.manifest import SIGNATURE, Manifest
from stages.untrusted_json import Malformed, parse_json, validated

# What is signed begins with this, so that a signature under one kind of file never passes for one under another.
DOMAIN = b"duet logit cache manifest, signature version 1\0"
FORMAT = "duet-cache-signature"
MOST_SIGNATURES = 64
LARGEST_SIGNATURE_BYTES = 2**16


class _Entry(BaseModel):
    """One signature as it stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: str = Field(max_length=60)
    public_key: str = Field(max_length=200)
    signature: str = Field(max_length=100)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["duet-cache-signature"] = "duet-cache-signature"
    # Not Literal[1]: to that, true and 1.0 are equal.
    format_version: int = Field(1, ge=1, le=1)
    signatures: list[_Entry] = Field(min_length=1, max_length=MOST_SIGNATURES)


@dataclass(frozen=True)
class Signature:
    """key: whose it is said to be. value: 64 bytes. Whether it fits a manifest, `fits` says."""

    key: PublicKey
    value: bytes

    def fits(self, manifest: Manifest) -> bool:
        """Whether the key's owner signed this manifest."""
        return self.key.fits(self.value, signed_bytes(manifest))


def signed_bytes(manifest: Manifest) -> bytes:
    """What is signed: the domain, then the manifest's canonical JSON, with the fields that its file has."""
    fields = manifest.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return DOMAIN + text.encode("utf-8", "surrogatepass")


def sign(cache: Path, manifest: Manifest, key: Ed25519PrivateKey) -> PublicKey:
    """Put this key's signature beside the manifest, in place of an earlier one of the same key; others stay.

    Raises CacheError if the signature file that is there cannot be read.
    """
    own = Signature(public_half(key), key.sign(signed_bytes(manifest)))
    others = [each for each in read_signatures(cache) if each.key.line != own.key.line]
    try:
        write_signatures(cache, [*others, own])
    except OSError as error:
        raise OutputUnwritable(
            f"{cache} cannot be written ({error.strerror}).",
            "The signature was to lie beside its manifest, so nothing was signed.",
            "Make room there, or sign a copy:  duet cache pull URL CACHE",
        ) from error
    return own.key


def read_signatures(cache: Path) -> list[Signature]:
    """The signatures beside the manifest, none if the file is not there. Raises CacheError if it is not such a file."""
    path = cache / SIGNATURE
    try:
        with open_plain(path) as file:
            content = file.read(LARGEST_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    except DataError as error:
        raise _damaged(path, "is not a plain file") from error
    return parse_signatures(content, path)


def parse_signatures(content: bytes, path: Path | str) -> list[Signature]:
    """The signatures in these bytes. path: names them in errors. Raises CacheError if they are anything else."""
    if len(content) > LARGEST_SIGNATURE_BYTES:
        raise _damaged(path, f"has more than {LARGEST_SIGNATURE_BYTES:,} bytes")
    try:
        raw = parse_json(content)
    except Malformed as error:
        raise _damaged(path, f"is {error}") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > 1:
        raise _damaged(path, f"has format version {version}, this duet reads 1")
    try:
        found = [_signature(entry) for entry in validated(_File, raw).signatures]
    except Malformed as error:
        raise _damaged(path, f"is {error}") from error
    except ValueError as error:
        raise _damaged(path, f"is malformed: {error}") from error
    if len({each.key.line for each in found}) < len(found):
        raise _damaged(path, "holds two signatures of one key")
    return found


def _signature(entry: _Entry) -> Signature:
    key = public_key(entry.public_key)
    if key.comment or key.line != entry.public_key or key.fingerprint != entry.key:
        raise ValueError("a key is not the one of its fingerprint")
    try:
        value = base64.b64decode(entry.signature, validate=True)
    except binascii.Error as error:
        raise ValueError("a signature is not Base64") from error
    if len(value) != 64:
        raise ValueError(f"a signature has {len(value)} bytes, not 64")
    return Signature(key, value)


def signature_bytes(signatures: Sequence[Signature]) -> bytes:
    """The file that holds them."""
    entries = [
        {"key": each.key.fingerprint, "public_key": each.key.line, "signature": base64.b64encode(each.value).decode()}
        for each in signatures
    ]
    return (json.dumps({"format": FORMAT, "format_version": 1, "signatures": entries}, indent=1) + "\n").encode()


def write_signatures(cache: Path, signatures: Sequence[Signature]) -> None:
    """Publish them beside the manifest. Raises CacheError if they are more than a reader takes."""
    if len(signatures) > MOST_SIGNATURES:
        raise CacheError(f"{cache} would have {len(signatures)} signatures.", f"At most {MOST_SIGNATURES} are read.")
    write_atomically(cache / SIGNATURE, signature_bytes(signatures))
    make_read_only(cache / SIGNATURE)


def joined(own: Sequence[Signature], others: Sequence[Signature], manifest: Manifest) -> list[Signature]:
    """All of both, one of each key: the one that fits the manifest, or else its own."""
    found: dict[str, Signature] = {}
    for each in (*own, *others):
        earlier = found.get(each.key.line)
        if earlier is None or (not earlier.fits(manifest) and each.fits(manifest)):
            found[each.key.line] = each
    return list(found.values())


def trusted_signer(
    where: Path | str, manifest: Manifest, signatures: Sequence[Signature], trusted: Sequence[PublicKey]
) -> PublicKey:
    """The first trusted key that signed this manifest. where: names the cache.

    Raises CacheError, naming the keys that were found, if there is none.
    """
    lines = {key.line: key for key in trusted}
    for each in signatures:
        if each.key.line in lines and each.fits(manifest):
            return lines[each.key.line]
    needed = f"A signature of one of the trusted keys was needed: {', '.join(key.fingerprint for key in trusted)}."
    if not signatures:
        raise CacheError(f"{where} is not signed.", needed, f"Its owner signs it:  duet cache sign {where} --key KEY")
    if broken := [each.key.fingerprint for each in signatures if each.key.line in lines]:
        raise CacheError(
            f"{where} is not what {broken[0]} signed: the signature is of another manifest.",
            needed,
            "Fetch the cache again from where it came, or ask its owner.",
        )
    raise CacheError(
        f"{where} is signed by {', '.join(each.key.fingerprint for each in signatures)}, which is not trusted.",
        needed,
        "If that key is its owner's, as they told you by another way, add it to the trusted ones.",
    )


def _damaged(path: Path | str, what: str) -> CacheError:
    return CacheError(
        f"{path} {what}.",
        "It says nothing of who vouches for the cache, so nothing was read.",
        "Move it away, or fetch it again from where it came.",
    )
