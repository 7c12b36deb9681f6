"""How two teachers differ on one query, worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import make_fingerprint, make_row, write_cache

from stages.errors import CacheMismatch
from stages.logit_cache.difference import SCHEMA, compare, difference, summary
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row


def row(responses: list[int], ids: list[list[int]], logits: list[list[float]]) -> Row:
    return replace(
        make_row(0, make_fingerprint()),
        response_ids=np.array(responses, dtype=np.int32),
        topk_ids=np.array(ids, dtype=np.int32),
        topk_logits=np.array(logits, dtype=np.float32),
    )


def test_shifts_are_those_of_the_candidates_that_both_list() -> None:
    one = row([1], [[1, 2, 3, 4]], [[8, 6, 4, 2]])
    other = row([1], [[1, 5, 3, 6]], [[9, 7, 1, 0]])

    found = compare(one, other)

    # Both list 1 (8 → 9, +1) and 3 (4 → 1, −3).
    assert (found["mean_shift"], found["mean_abs_shift"], found["max_abs_shift"]) == (-1.0, 2.0, 3.0)
    assert (found["least_shift"], found["greatest_shift"]) == (-3.0, 1.0)
    assert found["overlap"] == 0.5
    assert (found["entered"], found["left"]) == ([5, 6], [2, 4])
    assert found["same_answer"] is True


def test_positions_behind_the_first_other_word_are_not_compared() -> None:
    ids = [[1, 2, 3, 4]] * 3
    one = row([1, 1, 1], ids, [[4, 3, 2, 1]] * 3)
    other = row([1, 2, 1], ids, [[5, 4, 3, 2], [3, 3, 2, 1], [900, 3, 2, 1]])

    found = compare(one, other)

    # +1 four times, then −1, 0, 0, 0; the third position follows another text.
    assert found["positions"] == 2
    assert (found["mean_shift"], found["mean_abs_shift"], found["max_abs_shift"]) == (3 / 8, 5 / 8, 1.0)
    assert (found["overlap"], found["same_answer"]) == (1.0, False)


def test_a_shorter_answer_is_compared_as_far_as_it_goes() -> None:
    one = row([1], [[1, 2, 3, 4]], [[4, 3, 2, 1]])
    other = row([1, 2], [[1, 2, 3, 4], [2, 1, 3, 4]], [[4, 3, 2, 1], [9, 8, 7, 6]])

    found = compare(one, other)

    assert (found["positions"], found["max_abs_shift"], found["same_answer"]) == (1, 0.0, False)


def test_without_a_common_candidate_there_is_no_shift() -> None:
    found = compare(row([1], [[1, 2, 3, 4]], [[4, 3, 2, 1]]), row([5], [[5, 6, 7, 8]], [[4, 3, 2, 1]]))

    names = ("mean_shift", "mean_abs_shift", "max_abs_shift", "least_shift", "greatest_shift")
    assert [found[name] for name in names] == [None] * 5
    assert (found["overlap"], found["entered"], found["left"]) == (0.0, [5, 6, 7, 8], [1, 2, 3, 4])


def test_a_summary_has_means_and_extremes_of_each_split() -> None:
    base = dict.fromkeys(SCHEMA) | {"query": "", "example_id": "", "positions": 1, "overlap": 1.0}
    rows = [
        {
            **base,
            "split": "forget",
            "mean_abs_shift": 1.0,
            "max_abs_shift": 2.0,
            "least_shift": -2.0,
            "same_answer": True,
        },
        {
            **base,
            "split": "forget",
            "mean_abs_shift": 3.0,
            "max_abs_shift": 4.0,
            "least_shift": -1.0,
            "same_answer": False,
        },
        {
            **base,
            "split": "retain",
            "mean_abs_shift": 0.5,
            "max_abs_shift": 0.5,
            "least_shift": 0.5,
            "same_answer": True,
        },
    ]

    forget, retain = summary(pl.DataFrame(rows, schema=SCHEMA)).to_dicts()

    assert (forget["split"], forget["examples"], retain["examples"]) == ("forget", 2, 1)
    assert (forget["mean_abs_shift"], forget["max_abs_shift"], forget["least_shift"]) == (2.0, 4.0, -2.0)
    assert (forget["same_answer"], retain["same_answer"], retain["greatest_shift"]) == (0.5, 1.0, None)


def test_caches_are_compared_on_the_examples_of_both(tmp_path: Path) -> None:
    write_cache(tmp_path / "one", 20, 8)
    write_cache(tmp_path / "other", 12, 5)
    told: list[int] = []

    found = difference(LogitCache(tmp_path / "one"), LogitCache(tmp_path / "other"), advance=told.append)

    assert found["query"].to_list() == [f"query {index}" for index in range(12)]
    assert found["max_abs_shift"].to_list() == [0.0] * 12
    assert sum(told) == 12


def test_caches_of_two_tokenizers_are_not_compared(tmp_path: Path) -> None:
    write_cache(tmp_path / "one")
    write_cache(tmp_path / "other", tokenizer_sha256="0" * 64)

    with pytest.raises(CacheMismatch, match="different tokenizers"):
        difference(LogitCache(tmp_path / "one"), LogitCache(tmp_path / "other"))
