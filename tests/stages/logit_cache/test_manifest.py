"""A manifest is believed only if it is whole, of a known version, and agrees with itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_cache

from stages.errors import CacheError
from stages.logit_cache.fingerprint import Fingerprint, cache_id
from stages.logit_cache.manifest import LARGEST_MANIFEST_BYTES, MANIFEST, SHARDS, read_manifest

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """20 rows in shards of 8, 8 and 4."""
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


def overwrite(cache: Path, content: bytes) -> None:
    """Replace the read-only manifest."""
    (cache / MANIFEST).unlink()
    (cache / MANIFEST).write_bytes(content)


def edit(cache: Path, change: Edit, *, rehash: bool = False) -> None:
    """Change the manifest's JSON. rehash: as a careful forger would, also renew the hashes over it."""
    raw = json.loads((cache / MANIFEST).read_bytes())
    change(raw)
    if rehash:
        fingerprint = Fingerprint.model_validate(raw["fingerprint"])
        raw["fingerprint_sha256"] = fingerprint.digest()
        raw["cache_id"] = cache_id(fingerprint, [shard["sha256"] for shard in raw["shards"]])
    overwrite(cache, json.dumps(raw).encode())


def test_a_published_manifest_reads_back_equal(tmp_path: Path):
    written = write_cache(tmp_path / "cache")
    assert read_manifest(tmp_path / "cache") == written


def test_counts_are_those_of_the_rows(cache: Path):
    # Rows 0 to 19: every third from 0 is in the forget set; row i has 1 + i % 3 positions.
    manifest = read_manifest(cache)
    assert manifest.splits == {"forget": 7, "retain": 13}
    assert manifest.rows == 20
    assert manifest.positions == 7 * 1 + 7 * 2 + 6 * 3
    assert [(shard.first_row, shard.rows) for shard in manifest.shards] == [(0, 8), (8, 8), (16, 4)]


def test_a_finished_cache_is_read_only(cache: Path):
    for path in (cache / MANIFEST, *(cache / SHARDS).iterdir()):
        assert path.stat().st_mode & 0o222 == 0, path.name


def test_a_folder_that_is_not_there_is_refused_with_the_command_that_builds_it(tmp_path: Path):
    with pytest.raises(CacheError, match="is not a folder") as caught:
        read_manifest(tmp_path / "nothing")
    assert "make teacher-cache" in caught.value.next_step


def test_a_cache_without_manifest_is_called_unfinished(cache: Path):
    (cache / MANIFEST).unlink()
    with pytest.raises(CacheError, match=r"holds no manifest\.json: its capture has not finished"):
        read_manifest(cache)


def test_a_manifest_that_is_a_link_is_not_followed(cache: Path):
    (cache / MANIFEST).rename(cache.parent / "elsewhere.json")
    (cache / MANIFEST).symlink_to(cache.parent / "elsewhere.json")
    with pytest.raises(CacheError, match=r"holds no manifest\.json"):
        read_manifest(cache)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"format": "duet-logit-cache"'],
    ids=["empty", "half", "not UTF-8", "nested without end", "cut off"],
)
def test_what_is_not_json_is_refused(cache: Path, content: bytes):
    overwrite(cache, content)
    with pytest.raises(CacheError, match="is not JSON"):
        read_manifest(cache)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"format": "another-cache"}', b"7"])
def test_json_that_is_no_manifest_is_refused(cache: Path, content: bytes):
    overwrite(cache, content)
    with pytest.raises(CacheError, match="is not the manifest of a logit cache"):
        read_manifest(cache)


def test_a_manifest_beyond_all_size_is_refused_unread(cache: Path):
    overwrite(cache, b"")
    with open(cache / MANIFEST, "r+b") as file:
        file.truncate(LARGEST_MANIFEST_BYTES + 1)
    with pytest.raises(CacheError, match=f"has {LARGEST_MANIFEST_BYTES + 1:,} bytes"):
        read_manifest(cache)


def test_a_newer_format_version_is_refused_even_with_fields_that_are_unknown_here(cache: Path):
    edit(cache, lambda raw: raw.update(format_version=3, compression="new"))
    with pytest.raises(CacheError, match="has format version 3, this duet reads up to 2"):
        read_manifest(cache)


@pytest.mark.parametrize(
    "name",
    [
        "../shard-00000.parquet",
        "/etc/passwd",
        "shards/shard-00000.parquet",
        "..",
        "",
        "shard-00000.parquet\n",
        "shard-00000.parquet/../x",
        "shard-00000.pkl",
        "shard-0.parquet",
        "C:\\shard-00000.parquet",
    ],
)
def test_a_shard_name_that_is_more_than_a_name_is_refused(cache: Path, name: str):
    edit(cache, lambda raw: raw["shards"][1].update(name=name))
    with pytest.raises(CacheError, match=r"malformed at shards\.1\.name"):
        read_manifest(cache)


MALFORMED: dict[str, tuple[Edit, str]] = {
    "an unknown field": (lambda raw: raw.update(answers=[]), "malformed at answers"),
    "an unknown field of a shard": (
        lambda raw: raw["shards"][0].update(url="http://x"),
        r"malformed at shards\.0\.url",
    ),
    "a missing field": (lambda raw: raw.pop("prefix"), "malformed at prefix"),
    "no shards": (lambda raw: raw.update(shards=[]), "malformed at shards"),
    "an unknown split": (lambda raw: raw["splits"].update(test=0), r"malformed at splits\.test"),
    "a short hash": (lambda raw: raw["shards"][0].update(sha256="ab"), r"malformed at shards\.0\.sha256"),
    "negative rows": (lambda raw: raw["shards"][0].update(rows=-8), r"malformed at shards\.0\.rows"),
    "another kind of value": (
        lambda raw: raw["fingerprint"].update(value_kind="logprobs"),
        r"malformed at fingerprint\.value_kind",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_manifest_is_refused_and_the_field_named(cache: Path, fault: str):
    change, message = MALFORMED[fault]
    edit(cache, change)
    with pytest.raises(CacheError, match=message):
        read_manifest(cache)


def swap_first_rows(raw: dict[str, Any]) -> None:
    one, other = raw["shards"][0], raw["shards"][1]
    one["first_row"], other["first_row"] = other["first_row"], one["first_row"]


def drop_last_shard(raw: dict[str, Any]) -> None:
    raw["shards"].pop()


CONTRADICTIONS: dict[str, tuple[Edit, bool, str]] = {
    "another fingerprint": (
        lambda raw: raw["fingerprint"].update(top_k=5),
        False,
        "fingerprint_sha256 is not the hash",
    ),
    "another fingerprint hash": (
        lambda raw: raw.update(fingerprint_sha256="0" * 64),
        False,
        "fingerprint_sha256 is not",
    ),
    "another cache id": (lambda raw: raw.update(cache_id="0" * 64), False, "cache_id is not the hash"),
    "another shard hash": (lambda raw: raw["shards"][2].update(sha256="0" * 64), False, "cache_id is not the hash"),
    "a shard less": (drop_last_shard, False, "cache_id is not the hash"),
    "a shard less, rehashed": (drop_last_shard, True, "rows do not add up"),
    "more rows": (lambda raw: raw.update(rows=21), True, "rows do not add up"),
    "a row in the other split": (lambda raw: raw["splits"].update(forget=8), True, "rows do not add up"),
    "more positions": (lambda raw: raw.update(positions=40), True, "positions do not add up"),
    "shards out of order": (swap_first_rows, True, "leave a gap or overlap"),
    "shards that do not begin at row 0": (
        lambda raw: raw["shards"][0].update(first_row=1),
        True,
        "leave a gap or overlap",
    ),
}


@pytest.mark.parametrize("fault", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(cache: Path, fault: str):
    change, rehash, message = CONTRADICTIONS[fault]
    edit(cache, change, rehash=rehash)
    with pytest.raises(CacheError, match=f"contradicts itself: .*{message}"):
        read_manifest(cache)


def test_an_edit_that_changes_no_hashed_field_is_still_read(cache: Path):
    # The provenance is no part of the cache's identity; this also proves that `edit` alone breaks nothing.
    edit(cache, lambda raw: raw["provenance"].update(model="renamed"), rehash=True)
    assert read_manifest(cache).provenance.model == "renamed"
