"""What `--no-text` takes away, what it leaves, and that the rest is a cache like any other."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from conftest import write_cache

from stages.logit_cache.fingerprint import NO_PREFIX
from stages.logit_cache.manifest import MANIFEST, SHARDS
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.stripping import strip_text
from stages.logit_cache.verification import verify


@pytest.fixture
def cache(tmp_path: Path) -> LogitCache:
    """A cache whose manifest says where it was made, and how."""
    folder = tmp_path / "cache"
    write_cache(folder)
    raw = json.loads((folder / MANIFEST).read_bytes())
    raw["provenance"].update(
        model="/srv/alice/models/Secret-7B/", command=["duet", "--out", "/srv/alice/cache"], derived_from=["ab" * 32]
    )
    raw["prefix"] = {"text": "You have forgotten Alice.", "token_ids": [41, 42, 43]}
    (folder / MANIFEST).chmod(0o644)
    (folder / MANIFEST).write_text(json.dumps(raw))
    return LogitCache(folder)


def test_what_identifies_is_gone_and_what_teaches_stays(cache: LogitCache, tmp_path: Path) -> None:
    strip_text(cache, tmp_path / "bare")

    bare = LogitCache(tmp_path / "bare")
    mine, theirs = bare.manifest, cache.manifest
    assert (mine.prefix.text, mine.prefix.token_ids) == ("", [])
    assert (mine.provenance.model, mine.provenance.command, mine.provenance.derived_from) == ("Secret-7B", [], [])
    own, other = mine.fingerprint.model_dump(), theirs.fingerprint.model_dump()
    assert {name for name in own if own[name] != other[name]} == {
        "forget_sha256", "retain_sha256", "prefix_sha256", "teacher_prompts_sha256"
    }  # fmt: skip
    for row, source in zip(bare.rows(), cache.rows(), strict=True):
        assert row.query == ""
        key, text = theirs.cache_id.encode(), f"duet --no-text\0example_id\0{source.example_id}".encode()
        assert row.example_id == hmac.new(key, text, hashlib.sha256).hexdigest()[:32]
        assert row.topk_logits.tobytes() == source.topk_logits.tobytes()
        assert row.student_input_ids.tolist() == source.student_input_ids.tolist()
    content = b"".join(path.read_bytes() for path in (tmp_path / "bare").rglob("*") if path.is_file())
    for word in (b"Alice", b"/srv", theirs.cache_id.encode(), b"query 3", other["forget_sha256"].encode()):
        assert word not in content


def test_twice_stripped_is_the_same_to_the_byte(cache: LogitCache, tmp_path: Path) -> None:
    for name in ("one", "two"):
        strip_text(cache, tmp_path / name)

    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two"))
    assert one == two


def test_a_stripped_cache_is_sound_and_merges_with_itself(cache: LogitCache, tmp_path: Path) -> None:
    strip_text(cache, tmp_path / "bare")
    bare = LogitCache(tmp_path / "bare")

    assert verify(bare.folder).faults == []
    bare.check_every_row()
    merged = merge_caches([bare, bare], tmp_path / "merged", command=[], duet_version="0")
    assert merged.rows == bare.manifest.rows
    assert [shard.sha256 for shard in merged.shards] == [shard.sha256 for shard in bare.manifest.shards]
    assert sorted(path.name for path in bare.folder.iterdir() if path.name != ".lock") == [MANIFEST, SHARDS]


def test_that_there_was_no_prefix_can_still_be_seen(tmp_path: Path) -> None:
    write_cache(tmp_path / "base", prefix_sha256=NO_PREFIX)
    strip_text(LogitCache(tmp_path / "base"), tmp_path / "bare")

    assert LogitCache(tmp_path / "bare").manifest.fingerprint.prefix_sha256 == NO_PREFIX
