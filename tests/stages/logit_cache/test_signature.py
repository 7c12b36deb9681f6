"""Signatures beside a manifest, by keys that ssh-keygen and openssl made: what fits, what does not, and what is refused."""

import base64
import json
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_cache

from stages.errors import CacheError, OutputUnwritable
from stages.logit_cache.keys import KeyFileError, private_key, public_half, public_key, trusted_keys
from stages.logit_cache.manifest import MANIFEST, SIGNATURE, Manifest, read_manifest
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.signature import (
    DOMAIN,
    LARGEST_SIGNATURE_BYTES,
    parse_signatures,
    read_signatures,
    sign,
    signed_bytes,
    trusted_signer,
)

Key = Callable[..., Path]


def no_passphrase() -> str:
    raise AssertionError("no passphrase was to be asked for")


@pytest.fixture
def ssh_key(tmp_path: Path) -> Key:
    """Makes a key with ssh-keygen; its public half lies beside it as .pub."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not here")

    def make(name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        path = tmp_path / name
        command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", f"{name} of the team", "-f", str(path)]
        subprocess.run(command, check=True)
        return path

    return make


@pytest.fixture
def pem_key(tmp_path: Path) -> Key:
    """Makes a key with openssl; its public half lies beside it as .pub."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not here")

    def make(name: str, kind: str = "ed25519", passphrase: str = "") -> Path:
        path = tmp_path / name
        lock = ["-aes256", "-pass", f"pass:{passphrase}"] if passphrase else []
        subprocess.run(["openssl", "genpkey", "-algorithm", kind, *lock, "-out", path], check=True, capture_output=True)
        opened = ["-passin", f"pass:{passphrase}"] if passphrase else []
        subprocess.run(["openssl", "pkey", "-in", path, *opened, "-pubout", "-out", f"{path}.pub"], check=True)
        return path

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


def signed(cache: Path, *keys: Path) -> Manifest:
    manifest = LogitCache(cache).manifest
    for key in keys:
        sign(cache, manifest, private_key(key, no_passphrase))
    return manifest


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["ssh", "pem"])
def test_a_signed_cache_is_read_and_its_signer_is_known(cache: Path, kind: str, request: pytest.FixtureRequest) -> None:
    key = request.getfixturevalue(f"{kind}_key")("alice")
    manifest = signed(cache, key)

    trusted = trusted_keys([Path(f"{key}.pub")])
    found = trusted_signer(cache, LogitCache(cache).manifest, read_signatures(cache), trusted)

    assert found == trusted[0]
    assert signed_bytes(manifest).startswith(DOMAIN + b'{"cache_id":"')


@pytest.mark.parametrize("kind", ["ssh", "pem"])
def test_a_passphrase_is_asked_for_and_a_wrong_one_opens_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    key = request.getfixturevalue(f"{kind}_key")("alice", passphrase="open sesame")

    assert public_half(private_key(key, lambda: "open sesame"))
    for wrong in ("", "sesame"):
        with pytest.raises(KeyFileError, match="does not open: the passphrase is wrong"):
            private_key(key, lambda wrong=wrong: wrong)


def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(ssh_key: Key) -> None:
    key = ssh_key("alice")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True).stdout

    (own,) = trusted_keys([Path(f"{key}.pub")])
    assert own.fingerprint == shown.split()[1]
    assert own.comment == "alice of the team"


def test_openssl_agrees_with_a_signature(cache: Path, pem_key: Key, tmp_path: Path) -> None:
    key = pem_key("alice")
    manifest = signed(cache, key)
    (tmp_path / "message").write_bytes(signed_bytes(manifest))
    (tmp_path / "value").write_bytes(read_signatures(cache)[0].value)

    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", f"{key}.pub"]
    found = subprocess.run([*command, "-in", tmp_path / "message", "-sigfile", tmp_path / "value"], check=False)
    assert found.returncode == 0


def test_several_sign_and_signing_again_replaces_ones_own_only(cache: Path, ssh_key: Key) -> None:
    alice, bob = ssh_key("alice"), ssh_key("bob")
    signed(cache, alice, bob, alice)

    found = read_signatures(cache)
    assert {each.key for each in found} == {
        public_key(Path(f"{key}.pub").read_text().rsplit(" ", 4)[0]) for key in (alice, bob)
    }
    assert all(each.fits(read_manifest(cache)) for each in found)


def test_one_changed_field_takes_the_signature_away_and_layout_does_not(cache: Path, ssh_key: Key) -> None:
    key = ssh_key("alice")
    signed(cache, key)
    trusted = trusted_keys([Path(f"{key}.pub")])
    raw = json.loads((cache / MANIFEST).read_bytes())
    rewrite(cache / MANIFEST, json.dumps(raw, separators=(", ", " : ")).encode())
    assert trusted_signer(cache, read_manifest(cache), read_signatures(cache), trusted)

    for change in ({"licence": "CC0"}, {"sensitivity": ""}, {"provenance": {**raw["provenance"], "model": "other"}}):
        rewrite(cache / MANIFEST, json.dumps({**raw, **change}).encode())
        with pytest.raises(CacheError, match="the signature is of another manifest"):
            trusted_signer(cache, read_manifest(cache), read_signatures(cache), trusted)


def test_an_unsigned_cache_and_a_stranger_s_are_refused_by_name(cache: Path, ssh_key: Key) -> None:
    alice, bob = ssh_key("alice"), ssh_key("bob")
    trusted = trusted_keys([Path(f"{alice}.pub")])
    with pytest.raises(CacheError, match="is not signed"):
        trusted_signer(cache, read_manifest(cache), read_signatures(cache), trusted)

    signed(cache, bob)
    (stranger,) = trusted_keys([Path(f"{bob}.pub")])
    with pytest.raises(CacheError) as told:
        trusted_signer(cache, read_manifest(cache), read_signatures(cache), trusted)
    assert f"is signed by {stranger.fingerprint}, which is not trusted" in told.value.found
    assert trusted[0].fingerprint in told.value.needed


def test_a_trusted_key_on_a_stranger_s_signature_fits_nothing(cache: Path, ssh_key: Key) -> None:
    alice, bob = ssh_key("alice"), ssh_key("bob")
    signed(cache, bob)
    (own,) = trusted_keys([Path(f"{alice}.pub")])
    raw = json.loads((cache / SIGNATURE).read_bytes())
    raw["signatures"][0].update(key=own.fingerprint, public_key=own.line)
    rewrite(cache / SIGNATURE, json.dumps(raw).encode())

    with pytest.raises(CacheError, match="the signature is of another manifest"):
        trusted_signer(cache, read_manifest(cache), read_signatures(cache), [own])


def damaged(raw: dict[str, object]) -> dict[str, bytes]:
    entry = raw["signatures"][0]  # type: ignore[index]
    value = base64.b64decode(entry["signature"])

    def file(**changes: object) -> bytes:
        return json.dumps({**raw, "signatures": [{**entry, **changes}]}).encode()

    return {
        "is not JSON": b"\xff\xfe",
        "is not JSON ": b"[" * 50_000,
        "more than": b" " * (LARGEST_SIGNATURE_BYTES + 1),
        "malformed": b"[]",
        "format version 2": json.dumps({**raw, "format_version": 2}).encode(),
        "at format_version": json.dumps({**raw, "format_version": True}).encode(),
        "at format_version: ": json.dumps({**raw, "format_version": 1.0}).encode(),
        "stands twice": b'{"format_version": 7,' + json.dumps(raw).encode()[1:],
        "is not JSON \\(": json.dumps(raw).encode("utf-16"),
        "has 63 bytes": file(signature=base64.b64encode(value[:63]).decode()),
        "not Base64": file(signature="=" * 88),
        "not the one of its fingerprint": file(key="SHA256:" + "A" * 43),
        "ssh-rsa": file(public_key="ssh-rsa AAAA"),
        "Extra inputs": file(more=1),
        "at least 1": json.dumps({**raw, "signatures": []}).encode(),
        "two signatures of one key": json.dumps({**raw, "signatures": [entry, entry]}).encode(),
    }


def test_a_signature_file_that_is_none_is_one_line(cache: Path, ssh_key: Key) -> None:
    signed(cache, ssh_key("alice"))
    for words, content in damaged(json.loads((cache / SIGNATURE).read_bytes())).items():
        with pytest.raises(CacheError, match=words.strip()) as told:
            parse_signatures(content, "manifest.sig")
        assert "\n" not in told.value.found


def test_a_signature_file_that_is_a_link_a_folder_or_huge_is_not_read(cache: Path, tmp_path: Path) -> None:
    path = cache / SIGNATURE
    (tmp_path / "elsewhere").write_text("{}")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="not a plain file"):
        read_signatures(cache)
    path.unlink()
    path.mkdir()
    with pytest.raises(CacheError, match=r"manifest\.sig"):
        read_signatures(cache)
    path.rmdir()
    with open(path, "wb") as file:
        file.truncate(2**30)
    with pytest.raises(CacheError, match="more than 65,536 bytes"):
        read_signatures(cache)


def test_keys_of_other_kinds_are_refused(ssh_key: Key, pem_key: Key, tmp_path: Path) -> None:
    ecdsa, ed448 = ssh_key("ecdsa", kind="ecdsa"), pem_key("ed448", kind="ed448")
    with pytest.raises(KeyFileError, match="holds an ECDSA key"):
        private_key(ecdsa, no_passphrase)
    with pytest.raises(KeyFileError, match="holds an Ed448 key"):
        private_key(ed448, no_passphrase)
    with pytest.raises(KeyFileError, match=r"ecdsa\.pub:1: an ssh-ed25519 key was needed"):
        trusted_keys([Path(f"{ecdsa}.pub")])
    with pytest.raises(KeyFileError, match=r"ed448\.pub:1: an Ed25519 key was needed, and this is an Ed448 key"):
        trusted_keys([Path(f"{ed448}.pub")])


def test_a_file_that_is_no_key_is_one_line(ssh_key: Key, tmp_path: Path) -> None:
    alice = ssh_key("alice")
    with pytest.raises(KeyFileError, match="holds a private key"):
        trusted_keys([alice])
    with pytest.raises(KeyFileError, match="holds a public key, with which nobody can sign"):
        private_key(Path(f"{alice}.pub"), no_passphrase)
    for name, content in (("empty", ""), ("comments", "# nobody\n\n"), ("bad", "ssh-ed25519 AAAA\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(KeyFileError, match=r"no key|damaged"):
            trusted_keys([tmp_path / name])
    with pytest.raises(KeyFileError, match="cannot be read"):
        trusted_keys([tmp_path / "absent"])
    with pytest.raises(KeyFileError, match="cannot be read"):
        private_key(tmp_path, no_passphrase)


def test_a_file_of_several_keys_with_comments_is_read_whole(ssh_key: Key, tmp_path: Path) -> None:
    lines = [Path(f"{ssh_key(name)}.pub").read_text().strip() for name in ("alice", "bob")]
    (tmp_path / "team").write_text("# the team\n\n" + "\n".join([*lines, lines[0]]) + "\n")

    assert [key.comment for key in trusted_keys([tmp_path / "team"])] == ["alice of the team", "bob of the team"]


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
@pytest.mark.parametrize("sign_bit", [0, 1])
def test_a_key_under_which_anybody_can_sign_is_refused(y: int, sign_bit: int) -> None:
    raw = (y | sign_bit << 255).to_bytes(32, "little")
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + raw

    with pytest.raises(ValueError, match=r"anybody can sign|damaged"):
        public_key(f"ssh-ed25519 {base64.b64encode(blob).decode()}")


def test_a_full_disk_signs_nothing_and_leaves_nothing(cache: Path, ssh_key: Key) -> None:
    key, before = private_key(ssh_key("alice"), no_passphrase), sorted(cache.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OutputUnwritable, match="File too large"):
            sign(cache, read_manifest(cache), key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert sorted(cache.iterdir()) == before
