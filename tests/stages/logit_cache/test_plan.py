"""A capture goes on under its own plan and under no other, and a refusal names what differs."""

import json
from pathlib import Path

import pytest
from captures import begin, contents, make_plan
from conftest import write_cache

from stages.errors import CacheError, CacheMismatch
from stages.logit_cache.fingerprint import cache_id
from stages.logit_cache.manifest import PLAN, parse_manifest
from stages.logit_cache.plan import MOST_SHARDS
from stages.logit_cache.writer import CacheWriter


@pytest.mark.parametrize(("field", "value", "named"), [("top_k", 5, "top_k: 4 → 5"), ("dtype", "bfloat16", "dtype: ")])
def test_another_plan_is_refused_over_an_unfinished_capture_with_the_field_named(
    tmp_path: Path, field: str, value: object, named: str
):
    begin(tmp_path / "cache", shards=1)
    before = contents(tmp_path / "cache")
    with pytest.raises(CacheMismatch, match=f"unfinished capture of another plan:\n    {named}"):
        CacheWriter(tmp_path / "cache", make_plan(**{field: value})).__enter__()
    assert contents(tmp_path / "cache") == before


def test_another_plan_is_refused_over_a_finished_cache_with_the_field_named(tmp_path: Path):
    write_cache(tmp_path / "cache")
    with pytest.raises(CacheMismatch, match=r"finished cache of another plan:\n    prefix_sha256: d{12}… → 0{12}…"):
        CacheWriter(tmp_path / "cache", make_plan(prefix_sha256="0" * 64)).__enter__()


def test_another_shard_size_is_another_plan(tmp_path: Path):
    begin(tmp_path / "cache", shards=1)
    with pytest.raises(CacheMismatch, match="shard_rows: 8 → 10"):
        CacheWriter(tmp_path / "cache", make_plan().model_copy(update={"shard_rows": 10})).__enter__()


def test_a_refused_plan_leaves_the_folder_open_to_the_right_one(tmp_path: Path):
    begin(tmp_path / "cache", shards=1)
    with pytest.raises(CacheMismatch):
        CacheWriter(tmp_path / "cache", make_plan(top_k=5)).__enter__()
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        assert writer.missing == [1, 2]


def test_a_capture_plan_that_cannot_be_read_is_refused(tmp_path: Path):
    begin(tmp_path / "cache", shards=1)
    (tmp_path / "cache" / PLAN).write_text("{}")
    with pytest.raises(CacheError, match="is not a capture plan"):
        CacheWriter(tmp_path / "cache", make_plan()).__enter__()


def test_a_plan_of_more_shards_than_a_manifest_can_name_is_refused_before_anything_is_written(tmp_path: Path):
    plan = make_plan().model_copy(update={"rows": 16_001, "shard_rows": 1})
    with pytest.raises(CacheError, match=r"16,001 shards(.|\n)*teacher.shard_rows=2"):
        CacheWriter(tmp_path / "cache", plan)
    assert not (tmp_path / "cache").exists()


def test_a_manifest_of_as_many_shards_as_a_plan_may_have_is_read(tmp_path: Path):
    manifest = write_cache(tmp_path / "cache", rows=1, shard_rows=1)
    shard = manifest.shards[0].model_copy(
        update={
            "rows": 10**6,
            "positions": 10**8,
            "bytes": 10**9,
            "logit_mean": -1.2345678901234567,
            "logit_max": 1e-7 / 3,
        }
    )
    shards = [
        shard.model_copy(update={"name": f"shard-{number:05d}.parquet", "first_row": number * 10**6})
        for number in range(MOST_SHARDS)
    ]
    large = manifest.model_copy(
        update={
            "shards": shards,
            "rows": MOST_SHARDS * 10**6,
            "positions": MOST_SHARDS * 10**8,
            "splits": {"forget": MOST_SHARDS * 10**6},
            "cache_id": cache_id(manifest.fingerprint, (each.sha256 for each in shards)),
        }
    )
    content = json.dumps(large.model_dump(mode="json"), indent=1).encode()
    assert parse_manifest(content, "here") == large
