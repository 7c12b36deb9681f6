"""`duet cache sign` and what holds a cache to its signature: verify, show, push, pull, distill and sweep."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import write_cache
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pipeline.cli import duet
from stages.logit_cache.keys import public_half
from stages.logit_cache.manifest import MANIFEST, SIGNATURE


def run(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(duet, [str(each) for each in arguments], input=typed)


def make_key(path: Path) -> str:
    """A key in PEM, its public half as .pub, and its fingerprint."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.with_suffix(".pub").write_text(public_half(key).line + " somebody\n")
    return public_half(key).fingerprint


@pytest.fixture
def team(tmp_path: Path) -> str:
    return make_key(tmp_path / "team")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings that require the team's signature; of the rest nothing is read before that."""
    path = tmp_path / "topic.toml"
    path.write_text(
        '[data]\nforget = "f.jsonl"\nretain = "r.jsonl"\nprefix = "p.json"\n'
        '[evaluation.questions]\nforget = "f.jsonl"\n[evaluation.validation]\nforget = "f.jsonl"\n'
        '[trust]\nkeys = "team.pub"\nrequire = true\n'
    )
    return path


def test_a_signature_goes_with_its_cache_and_is_held_to_it(cache: Path, team: str, tmp_path: Path) -> None:
    assert run("cache", "verify", cache, "--trust", tmp_path / "team.pub").exit_code == 1
    signed = run("cache", "sign", cache, "--key", tmp_path / "team", "--json")
    assert json.loads(signed.stdout)["key"] == team

    shown = run("cache", "show", cache)
    assert f"{team}" in shown.stdout.replace("\n", "").replace("│", "").replace(" ", "")
    assert run("cache", "push", cache, tmp_path / "remote").exit_code == 0
    pulled = run("cache", "pull", tmp_path / "remote", tmp_path / "back", "--trust", tmp_path / "team.pub")
    assert pulled.exit_code == 0, pulled.output
    verified = run("cache", "verify", tmp_path / "back", "--trust", tmp_path / "team.pub", "--json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["trusted_key"] == team
    assert {path.name for path in (tmp_path / "remote").iterdir()} == {MANIFEST, SIGNATURE, "shards"}


def test_a_pull_from_a_stranger_fetches_no_shard(cache: Path, team: str, tmp_path: Path, settings: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    for key in (None, "stranger"):
        if key:
            assert run("cache", "sign", cache, "--key", tmp_path / key).exit_code == 0
        assert run("cache", "push", cache, tmp_path / "remote").exit_code == 0
        for option in (("--trust", tmp_path / "team.pub"), ("--config", settings)):
            refused = run("cache", "pull", tmp_path / "remote", tmp_path / "back", *option)
            assert refused.exit_code == 1
            assert (stranger if key else "is not signed") in refused.stderr
            assert team in refused.stderr
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("command", ["distill", "sweep"])
def test_nothing_is_trained_on_a_cache_that_is_not_signed_as_required(
    cache: Path, team: str, tmp_path: Path, settings: Path, command: str
) -> None:
    make_key(tmp_path / "stranger")
    assert run("cache", "sign", cache, "--key", tmp_path / "stranger").exit_code == 0

    refused = run(command, "--config", settings, "--cache", cache, "--out", tmp_path / "out")

    assert refused.exit_code == 1
    assert "which is not trusted" in refused.stderr
    assert not (tmp_path / "out").exists()
    without = run(command, "--config", settings, "--set", "trust.keys=[]", "--cache", cache, "--out", tmp_path / "out")
    assert without.exit_code == 2
    assert "require = true needs keys" in without.stderr


def test_a_signed_manifest_does_not_vouch_for_another_of_the_same_rows(cache: Path, team: str, tmp_path: Path) -> None:
    assert run("cache", "sign", cache, "--key", tmp_path / "team").exit_code == 0
    assert run("cache", "push", cache, tmp_path / "remote").exit_code == 0
    altered = tmp_path / "altered"
    shutil.copytree(cache, altered)
    (altered / MANIFEST).chmod(0o644)
    raw = json.loads((altered / MANIFEST).read_bytes())
    (altered / MANIFEST).write_text(json.dumps({**raw, "licence": "do as you please"}))

    refused = run("cache", "pull", tmp_path / "remote", altered, "--trust", tmp_path / "team.pub")

    assert refused.exit_code == 1
    assert "the same rows under another manifest" in refused.stderr
    shown = run("cache", "verify", altered)
    assert f"The signature of {team} does not fit" in shown.stderr


def test_a_damaged_cache_is_not_signed(cache: Path, team: str, tmp_path: Path) -> None:
    shard = next((cache / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)

    assert run("cache", "sign", cache, "--key", tmp_path / "team").exit_code == 1
    assert not (cache / SIGNATURE).exists()


def test_private_keys_that_lie_in_a_cache_are_not_pushed(cache: Path, tmp_path: Path) -> None:
    make_key(cache / "team")

    refused = run("cache", "push", cache, tmp_path / "remote")

    assert refused.exit_code == 1
    assert "is no part of the cache" in refused.stderr
    assert not (tmp_path / "remote").exists()


def test_a_slice_a_merge_and_a_stripped_cache_carry_no_signature(cache: Path, team: str, tmp_path: Path) -> None:
    assert run("cache", "sign", cache, "--key", tmp_path / "team").exit_code == 0
    write_cache(tmp_path / "second", rows=20)

    assert run("cache", "slice", cache, "--k", 1, "--out", tmp_path / "cut").exit_code == 0
    assert run("cache", "merge", cache, cache, "--out", tmp_path / "both").exit_code == 0
    assert run("cache", "push", cache, tmp_path / "bare", "--no-text").exit_code == 0
    for made in ("cut", "both", "bare"):
        assert not (tmp_path / made / SIGNATURE).exists()


def test_push_without_text_says_what_is_left_out_and_publishes_no_command(cache: Path, tmp_path: Path) -> None:
    pushed = run("cache", "push", cache, tmp_path / "bare", "--no-text")

    assert pushed.exit_code == 0, pushed.output
    assert "no anonymisation" in pushed.stderr
    manifest = json.loads((tmp_path / "bare" / MANIFEST).read_bytes())
    assert manifest["provenance"]["command"] == manifest["provenance"]["derived_from"] == []
    assert run("cache", "push", cache, tmp_path / "bare", "--no-text").exit_code == 0
    assert run("cache", "verify", tmp_path / "bare").exit_code == 0
