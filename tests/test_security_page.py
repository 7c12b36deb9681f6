"""docs/security.md against the code: commands, options, settings and fields that it names."""

import re

import click
from conftest import ROOT

from pipeline.cli import duet
from pipeline.settings import Settings
from stages.logit_cache import stripping
from stages.logit_cache.fingerprint import Fingerprint
from stages.logit_cache.manifest import Provenance
from stages.logit_cache.signature import DOMAIN, LARGEST_SIGNATURE_BYTES, MOST_SIGNATURES

PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")


def command_of(words: list[str]) -> click.Command:
    found: click.Command = duet
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return found


def test_every_command_and_option_that_the_page_names_exists() -> None:
    named = set(re.findall(r"\bduet ((?:cache )?[a-z][a-z-]+)((?: --?[a-z-]+)*)", PAGE)) - {("is", ""), ("prints", "")}
    assert len(named) > 10
    for words, options in named:
        command = command_of(words.split())
        known = {name for option in command.params for name in option.opts}
        assert set(options.split()) <= known, words


def test_every_command_that_reads_a_cache_stands_in_the_table() -> None:
    cache = command_of(["cache"])
    assert isinstance(cache, click.Group)
    for name in cache.commands.keys() - {"schema"}:
        assert f"| `duet cache {name}` |" in PAGE
    for name in ("distill", "sweep"):
        assert f"| `duet {name}` |" in PAGE


def test_the_settings_and_fields_that_the_page_names_are_those_of_the_code() -> None:
    assert {"keys", "require"} == set(type(Settings.model_fields["trust"].default).model_fields)
    for name in stripping.HIDDEN_HASHES:
        assert f"`{name}`" in PAGE
        assert name in Fingerprint.model_fields
    assert "derived_from" in Provenance.model_fields
    format_page = (ROOT / "docs/cache-format.md").read_text(encoding="utf-8")
    assert DOMAIN.decode().rstrip("\0") in format_page
    assert f"1 to {MOST_SIGNATURES} objects" in format_page
    assert f"at most {LARGEST_SIGNATURE_BYTES // 1024} KiB" in format_page
