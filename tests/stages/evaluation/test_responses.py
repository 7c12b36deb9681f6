"""Which cached responses decline, by their text, and which of them their split did not want."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import write_cache

from stages.evaluation.responses import OPENINGS, begins_to_decline, declines, read_responses, rows_left_out
from stages.logit_cache.reader import LogitCache

# Of the made-up cache: row i has 1 + i mod 3 of at most 3 positions, and rows 0 and 3 are forget rows.
TEXTS = ["I", "The capital", "I", "I don't know.", "I can't say.", "The"]


def decode(ids: Sequence[Sequence[int]]) -> list[str]:
    assert [len(each) for each in ids] == [1, 2, 3, 1, 2, 3]
    return TEXTS


@pytest.mark.parametrize("opening", OPENINGS)
def test_every_opening_is_one_of_a_refusal(opening: str) -> None:
    assert declines(f"{opening.capitalize()} that.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I", True),
        (" I’m", True),
        ("I'm sor", True),
        ("I don't", True),
        ("I can", True),
        ("I'm sorry", True),
        ("I’m sorry, but", True),
        ("I think", False),
        ("It", False),
        ("The", False),
        ("", False),
        (" ", False),
    ],
)
def test_what_a_refusal_may_begin_with_counts_as_one(text: str, expected: bool) -> None:
    assert begins_to_decline(text) == expected


def test_a_forget_row_that_is_answered_and_a_retain_row_that_is_declined_do_not_fit(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", rows=6)

    found = read_responses(LogitCache(tmp_path / "cache"), decode)

    assert found.rows == {"forget": 2, "retain": 4}
    # Rows 2 and 5 hold all three positions and no end: "I" is cut there, and a whole answer in row 0.
    assert found.cut == {"forget": 0, "retain": 2}
    assert [(each.row, each.query, each.response) for each in found.of("forget")] == [(0, "query 0", "I")]
    assert [(each.row, each.response) for each in found.of("retain")] == [(2, "I"), (4, "I can't say.")]


def test_a_response_that_ended_at_the_last_position_is_not_cut(tmp_path: Path) -> None:
    manifest = write_cache(tmp_path / "one", rows=6)
    ends = {int(row.response_ids[-1]) for row in LogitCache(tmp_path / "one").rows() if len(row.response_ids) == 3}
    write_cache(tmp_path / "two", rows=6, stop_ids=tuple(sorted(ends)))

    assert not ends & set(manifest.fingerprint.stop_ids or ())
    found = read_responses(LogitCache(tmp_path / "two"), decode)

    assert found.cut == {"forget": 0, "retain": 0}
    assert [each.row for each in found.misfits] == [0, 4]


def test_the_rows_of_the_chosen_splits_are_left_out(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", rows=6)
    found = read_responses(LogitCache(tmp_path / "cache"), decode)

    assert rows_left_out(found, ("forget",)).tolist() == [True, False, False, False, False, False]
    assert rows_left_out(found, ("retain",)).tolist() == [False, False, True, False, True, False]
    assert rows_left_out(found, ("forget", "retain")).nonzero()[0].tolist() == [0, 2, 4]
    assert not rows_left_out(found, ()).any()
