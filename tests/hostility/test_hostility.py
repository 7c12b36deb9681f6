"""Some hostile caches of `make bench-hostile`, and what the measurement itself must be able to see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_cache
from hostility.bases import Files, shard_names, vouched
from hostility.rules import judge
from hostility.thrift import Reader, struct_bytes

from stages.logit_cache.manifest import MANIFEST


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("sound") / "cache"
    write_cache(folder)
    names = [MANIFEST, *(f"shards/{path.name}" for path in (folder / "shards").iterdir())]
    return {name: (folder / name).read_bytes() for name in names}


def test_the_rules_hold_for_a_sound_cache_and_give_its_rows(sound: Files) -> None:
    verdict = judge(sound)

    assert verdict.sound
    assert verdict.rows is not None and len(verdict.rows) == 20


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda raw: raw["splits"].update(forget=6, retain=14), "rows of a split"),
        (lambda raw: raw["shards"][0].update(logit_max=99.0), "a shard's extremes"),
        (lambda raw: raw["fingerprint"].update(vocab_size=50), "an id outside the vocabulary"),
        (lambda raw: raw["shards"][1].update(rows=8.0), "shard.rows"),
        (lambda raw: raw.update(format_version=True), "manifest.format_version"),
    ],
)
def test_the_rules_see_what_a_manifest_says_wrongly(sound: Files, change: object, fault: str) -> None:
    verdict = judge(vouched(sound, change))  # type: ignore[arg-type]

    faults = (verdict.row_fault, verdict.cache_fault, verdict.fine_fault)
    # Another fingerprint is also none of the footers' own.
    assert any(fault in (each or "") for each in faults) or "another fingerprint" in (verdict.row_fault or "")
    assert not verdict.sound


def test_a_shard_that_is_not_what_its_hash_says_is_no_part_of_a_cache(sound: Files) -> None:
    name = shard_names(sound)[0]

    assert judge({**sound, name: sound[name] + b"\0"}).row_fault == "a shard's bytes"


def test_thrift_is_read_and_written_back(sound: Files) -> None:
    content = sound[shard_names(sound)[0]]
    length = int.from_bytes(content[-8:-4], "little")

    assert struct_bytes(Reader(content, len(content) - 8 - length).struct()) == content[-8 - length : -8]


def test_no_hostile_cache_is_accepted_wrongly_or_ends_in_a_traceback(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests/hostility/measure.py", "--cases", "120", "--out", tmp_path / "hostile.md"]

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:]
    assert "| all | 120 |" in (tmp_path / "hostile.md").read_text()
