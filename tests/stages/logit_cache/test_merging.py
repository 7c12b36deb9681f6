"""Two topics become one cache, each example once, or a refusal that names what differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_same_row, make_fingerprint, make_row, write_cache

from stages.errors import CacheMismatch
from stages.logit_cache.fingerprint import hash_prompts, sha256_json
from stages.logit_cache.merging import ROUNDING, agree, merge_caches
from stages.logit_cache.reader import LogitCache

OPTIONS: dict[str, Any] = {"command": ["test"], "duet_version": "0"}
# Three positions of four candidates each.
ROW = make_row(2, make_fingerprint())


def test_rows_stand_once_where_they_come_first_and_the_hash_is_that_of_their_prompts(tmp_path: Path) -> None:
    write_cache(tmp_path / "one", 5, 8)
    write_cache(tmp_path / "two", 12, 5)

    manifest = merge_caches([LogitCache(tmp_path / "one"), LogitCache(tmp_path / "two")], tmp_path / "both", **OPTIONS)

    rows = list(LogitCache(tmp_path / "both").rows())
    assert manifest.rows == len(rows) == 12
    for index, row in enumerate(rows):
        assert_same_row(row, make_row(index, make_fingerprint()))
    assert manifest.fingerprint.student_prompts_sha256 == hash_prompts(row.student_input_ids for row in rows)
    hashes = sorted(LogitCache(tmp_path / name).manifest.fingerprint.forget_sha256 for name in ("one", "two"))
    assert manifest.fingerprint.forget_sha256 == sha256_json(hashes)
    assert manifest.splits == {"forget": 4, "retain": 8}


@pytest.mark.parametrize(
    ("field", "change", "alike"),
    [
        ("topk_logits", ROUNDING / 2, True),
        ("topk_logits", ROUNDING * 2, False),
        ("query", "another", False),
        ("split", "retain", True),
        ("split", "forget", False),
    ],
)
def test_rows_agree_up_to_rounding(field: str, change: Any, alike: bool) -> None:
    value = ROW.topk_logits + np.float32(change) if field == "topk_logits" else change
    assert agree(ROW, replace(ROW, **{field: value})) is alike


def test_near_ties_in_another_order_agree_and_other_candidates_of_like_logits_do_not_hide_a_shift() -> None:
    ids, logits = ROW.topk_ids.copy(), ROW.topk_logits.copy()
    logits[1] = [9, 8, 8 - ROUNDING / 4, 1]
    one = replace(ROW, topk_logits=logits)
    ids[1, [1, 2]] = ids[1, [2, 1]]
    assert agree(one, replace(one, topk_ids=ids))

    # By rank the logits are the same; by id 8 and 1 have changed places.
    ids[1] = ROW.topk_ids[1][[0, 3, 2, 1]]
    assert not agree(one, replace(one, topk_ids=ids))


@pytest.mark.parametrize("field", ["student_input_ids", "response_ids"])
def test_rows_of_other_tokens_do_not_agree(field: str) -> None:
    assert not agree(ROW, replace(ROW, **{field: getattr(ROW, field) + np.int32(1)}))


def test_rows_of_another_length_do_not_agree() -> None:
    assert not agree(ROW, ROW.first(positions=2))
    assert not agree(ROW, ROW.first(top_k=3))


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", "bfloat16"), ("teacher_sha256", "0" * 64), ("prefix_on_retain", False)]
)
def test_caches_of_unlike_teachers_are_refused_and_what_differs_named(
    tmp_path: Path, field: str, value: object
) -> None:
    write_cache(tmp_path / "one")
    write_cache(tmp_path / "two", **{field: value})

    with pytest.raises(CacheMismatch, match=f"differ in\n    {field}: "):
        merge_caches([LogitCache(tmp_path / "one"), LogitCache(tmp_path / "two")], tmp_path / "both", **OPTIONS)
    assert not (tmp_path / "both").exists()
