"""Key files in, Ed25519 keys out: the ones that people have for ssh, and PEM as openssl writes it.

A private key stays in memory and is never written, sent or quoted. A public key is known by the fingerprint that
`ssh-keygen -l` prints.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stages.errors import DuetError
from stages.records import FileKind, read_text

MOST_KEY_BYTES = 2**16
SSH_TYPE = "ssh-ed25519"
GENERATE = "Make an Ed25519 key:  ssh-keygen -t ed25519 -f KEY"
PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
# y of the points of small order, on 2^255 − 19: under such a "key" a signature can be made that fits any message.
PRIME = 2**255 - 19
SMALL_ORDER = {
    0,
    1,
    PRIME - 1,
    PRIME,
    PRIME + 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
}


class KeyFileError(DuetError):
    """A key file that cannot be used."""


@dataclass(frozen=True)
class PublicKey:
    """line: `ssh-ed25519 …` without a comment. comment: what stands behind it in its file, perhaps nothing."""

    line: str
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as ssh-keygen prints it."""
        digest = hashlib.sha256(base64.b64decode(self.line.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def fits(self, signature: bytes, message: bytes) -> bool:
        """Whether the key's owner signed the message."""
        key = serialization.load_ssh_public_key(self.line.encode())
        assert isinstance(key, Ed25519PublicKey)
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def public_key(line: str) -> PublicKey:
    """The key on a line `ssh-ed25519 BASE64 [COMMENT]`. Raises ValueError, in words, if it is anything else."""
    kind, _, rest = line.strip().partition(" ")
    if kind != SSH_TYPE:
        raise ValueError(f"an {SSH_TYPE} key was needed, and this is {kind[:40] or 'nothing'}")
    encoded, _, comment = rest.strip().partition(" ")
    try:
        key = serialization.load_ssh_public_key(f"{SSH_TYPE} {encoded}".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("the key is damaged") from error
    assert isinstance(key, Ed25519PublicKey)
    return _sound(key, comment.strip())


def _sound(key: Ed25519PublicKey, comment: str = "") -> PublicKey:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if int.from_bytes(raw, "little") & (2**255 - 1) in SMALL_ORDER:
        raise ValueError("the key is one of the few under which anybody can sign")
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return PublicKey(line, comment)


def trusted_keys(paths: Sequence[Path]) -> list[PublicKey]:
    """The public keys of all files, each key once: OpenSSH lines with # for comments, or PEM.

    Raises KeyFileError for a file that cannot be read, holds no key, or anything else.
    """
    found: dict[str, PublicKey] = {}
    for path in paths:
        for key in _public_keys_of(path):
            found.setdefault(key.line, key)
    return list(found.values())


def _public_keys_of(path: Path) -> list[PublicKey]:
    needed = "Public Ed25519 keys were needed: lines as in ssh's *.pub files, or PEM."
    text = read_text(path, FileKind("key file", needed, GENERATE, KeyFileError))
    if "PRIVATE KEY-----" in text:
        raise KeyFileError(
            f"{path} holds a private key.",
            "Trust needs its public half only; a private one should be in nobody else's hands.",
            f"Write it:  ssh-keygen -y -f {path} > {path}.pub",
        )
    found = []
    if blocks := list(PEM_BLOCK.finditer(text)):
        for block in blocks:
            where = f"{path}:{1 + text.count(chr(10), 0, block.start())}"
            found.append(_public_pem(block[0], where, needed))
    else:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    found.append(public_key(line))
                except ValueError as error:
                    raise KeyFileError(f"{path}:{number}: {error}.", needed, GENERATE) from error
    if not found:
        raise KeyFileError(f"{path} holds no key.", needed, GENERATE)
    return found


def _public_pem(block: str, where: str, needed: str) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(block.encode())
        if isinstance(key, Ed25519PublicKey):
            return _sound(key)
        what = f"an Ed25519 key was needed, and this is {_kind_of(key)}"
    except (ValueError, UnsupportedAlgorithm) as error:
        what = str(error) if str(error).startswith("the key is") else "the key is damaged"
    raise KeyFileError(f"{where}: {what}.", needed, GENERATE)


def private_key(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """The private key of an OpenSSH or a PEM file. passphrase: asked for only where the file is encrypted.

    Raises KeyFileError if it cannot be read, is not of Ed25519, or the passphrase does not open it.
    """
    needed = "A private Ed25519 key was needed, of OpenSSH or as PKCS#8 in PEM, so nothing was signed."
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_KEY_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KeyFileError(f"The key {path} cannot be read ({reason}).", needed, GENERATE) from error
    if len(content) > MOST_KEY_BYTES:
        raise KeyFileError(f"{path} has more than {MOST_KEY_BYTES:,} bytes and is no key.", needed, GENERATE)
    if b"PRIVATE KEY-----" not in content:
        is_public = content.lstrip().startswith(b"ssh-") or b"PUBLIC KEY-----" in content
        what = "holds a public key, with which nobody can sign" if is_public else "holds no private key"
        raise KeyFileError(f"{path} {what}.", needed, GENERATE)
    is_ssh = b"-----BEGIN OPENSSH PRIVATE KEY-----" in content
    load = serialization.load_ssh_private_key if is_ssh else serialization.load_pem_private_key
    try:
        try:
            key = load(content, None)
        except TypeError:  # it is encrypted
            key = load(content, passphrase().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's own words may quote what is secret.
        raise KeyFileError(f"{path} does not open: the passphrase is wrong, or the file is damaged.", needed) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds {_kind_of(key)}.", needed, GENERATE)
    return key


def public_half(key: Ed25519PrivateKey) -> PublicKey:
    """The public key that belongs to a private one."""
    return _sound(key.public_key())


def _kind_of(key: object) -> str:
    name = type(key).__name__
    kinds = {"RSA": "an RSA key", "EC": "an ECDSA key", "DSA": "a DSA key", "Ed448": "an Ed448 key"}
    return next(
        (words for start, words in kinds.items() if name.lstrip("_").startswith(start)), "a key of another kind"
    )
