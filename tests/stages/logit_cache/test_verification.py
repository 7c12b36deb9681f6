"""`verify` finds what was altered, says what it looked at, and claims nothing that it could not see."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_cache
from hostile import SECOND, manifest, overwrite

from stages.errors import CacheError
from stages.logit_cache.fingerprint import QueryHash, hash_queries, sha256_json
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.stripping import strip_text
from stages.logit_cache.verification import verify


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """20 rows in shards of 8, 8 and 4; rows 0, 3, 6 … are in the forget set."""
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


def test_a_sound_cache_has_no_fault_and_its_hashes_over_queries_were_checked(cache: Path) -> None:
    found = verify(cache, no_tokenizer="there is none")

    assert found.faults == []
    assert {"forget_sha256", "retain_sha256", "student_prompts_sha256", "splits"} <= set(found.checked)
    assert {each.what: each.why for each in found.not_checked}[
        "the tokens of every row hold its query"
    ] == "there is none"


@pytest.mark.parametrize("split", ["forget", "retain"])
def test_queries_that_are_not_those_of_the_fingerprint_are_a_fault(tmp_path: Path, split: str) -> None:
    write_cache(tmp_path / "other", **{f"{split}_sha256": hash_queries(["another"])})

    assert [fault.message for fault in verify(tmp_path / "other").faults] == [
        f"names other {split} queries ({split}_sha256) than stand in the rows"
    ]


def test_what_a_cache_without_text_cannot_prove_is_listed(cache: Path, tmp_path: Path) -> None:
    strip_text(LogitCache(cache), tmp_path / "bare")

    found = verify(tmp_path / "bare")

    assert found.faults == []
    assert {"forget_sha256", "retain_sha256", "example_id"} <= {each.what for each in found.not_checked}
    assert "forget_sha256" not in found.checked


def test_what_a_merged_cache_cannot_prove_is_listed(cache: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "two", 30, 8)
    merge_caches(
        [LogitCache(cache), LogitCache(tmp_path / "two")], tmp_path / "both", command=["test"], duet_version="0"
    )

    found = verify(tmp_path / "both")

    assert found.faults == []
    assert {"forget_sha256", "retain_sha256"} <= {each.what for each in found.not_checked}


def test_every_shard_is_looked_at_though_an_earlier_one_is_damaged(cache: Path) -> None:
    content = bytearray((cache / SECOND).read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(cache / SECOND, bytes(content))
    (cache / "run.sh").write_text("what is this?")

    found = verify(cache)

    assert [fault.shard for fault in found.faults] == ["run.sh", "shard-00001.parquet"]
    unread = {each.what for each in found.not_checked if "shard-00001.parquet could not be read" in each.why}
    assert unread == {"splits", "student_prompts_sha256", "forget_sha256", "retain_sha256"}


def test_tokens_that_do_not_hold_their_query_are_a_fault_of_their_row(cache: Path) -> None:
    asked = []

    def asks(token_ids: object, query: str) -> bool:
        asked.append(query)
        return query != "query 9"

    found = verify(cache, asks=asks)

    assert [fault.message for fault in found.faults] == [
        "shard-00001.parquet, row group 0, row 1: its tokens do not hold its query"
    ]
    assert asked == [f"query {row}" for row in range(20)]
    assert "the tokens of every row hold its query" in found.checked


def test_another_mean_than_that_of_the_logits_is_a_fault(cache: Path) -> None:
    mean = np.concatenate([row.topk_logits.ravel() for row in LogitCache(cache).rows()][8:16]).astype(np.float64).mean()
    manifest(lambda raw: raw["shards"][1].update(logit_mean=mean + 0.01), rehashed=True)(cache)

    assert [fault.message for fault in verify(cache).faults] == [
        "has other extremes or another mean than the manifest says"
    ]


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is not a folder"):
        verify(tmp_path / "nothing")


@pytest.mark.parametrize("queries", [[], ["one"], ["a", 'quoted "b"', "é\n", ""]])
def test_queries_one_by_one_hash_as_the_canonical_json_of_their_list(queries: list[str]) -> None:
    found = QueryHash()
    for query in queries:
        found.add(query)
    assert found.hexdigest() == hash_queries(queries) == sha256_json(queries)
