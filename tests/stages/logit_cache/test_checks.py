"""No faulty row gets past check_rows, and the message says which row and why."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_fingerprint, make_row

from stages.errors import CacheError
from stages.logit_cache.checks import candidates_hold, check_example_ids, check_names, check_rows, check_size
from stages.logit_cache.footer import Chunk, RowGroup
from stages.logit_cache.rows import Row, row_schema, rows_to_table

FINGERPRINT = make_fingerprint()
# make_row(2) has three positions; its sound neighbours make sure that the right row is named.
FAULTY = 2


def with_logit(position: int, rank: int, value: float) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        logits = row.topk_logits.copy()
        logits[position, rank] = value
        return replace(row, topk_logits=logits)

    return change


def with_id(field: str, value: int) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        ids = getattr(row, field).copy()
        ids.reshape(-1)[-1] = value
        return replace(row, **{field: ids})

    return change


def with_candidates(ids: list[int], logits: list[float]) -> Callable[[Row], Row]:
    """Replace the last position's candidates; the first of them is said."""

    def change(row: Row) -> Row:
        response, topk_ids, topk_logits = row.response_ids.copy(), row.topk_ids.copy(), row.topk_logits.copy()
        response[-1], topk_ids[-1], topk_logits[-1] = ids[0], ids, logits
        return replace(row, response_ids=response, topk_ids=topk_ids, topk_logits=topk_logits)

    return change


def repeated(row: Row, times: int) -> Row:
    """The row with its positions several times over, consistent in itself."""
    response = np.tile(row.response_ids, times)
    first = len(row.student_input_ids) - 1
    return replace(
        row,
        response_ids=response,
        student_positions=np.arange(first, first + len(response), dtype=np.int32),
        topk_ids=np.tile(row.topk_ids, (times, 1)),
        topk_logits=np.tile(row.topk_logits, (times, 1)),
    )


def without_positions(row: Row) -> Row:
    empty = np.empty(0, dtype=np.int32)
    return replace(
        row,
        response_ids=empty,
        student_positions=empty,
        topk_ids=row.topk_ids[:0],
        topk_logits=row.topk_logits[:0],
    )


FAULTS: dict[str, tuple[Callable[[Row], Row], str]] = {
    "unsorted logits": (with_candidates([1, 2, 3, 4], [5, 6, 4, 3]), "not sorted by logit"),
    "unsorted logits at the end": (with_candidates([1, 2, 3, 4], [6, 5, 3, 4]), "not sorted by logit"),
    "a tie not ordered by id": (with_candidates([1, 3, 2, 4], [6, 5, 5, 4]), "not sorted by logit, then id"),
    "NaN": (with_logit(1, 2, np.nan), "a logit is not finite"),
    "infinity": (with_logit(0, 0, np.inf), "a logit is not finite"),
    "minus infinity": (with_logit(2, 3, -np.inf), "a logit is not finite"),
    "candidate beyond the vocabulary": (with_id("topk_ids", 100), "outside the vocabulary of 100"),
    "negative candidate": (with_id("topk_ids", -1), "outside the vocabulary of 100"),
    "input beyond the vocabulary": (with_id("student_input_ids", 100), "outside the vocabulary of 100"),
    "negative input": (with_id("student_input_ids", -1), "outside the vocabulary of 100"),
    "response beyond the vocabulary": (with_id("response_ids", 100), "outside the vocabulary of 100"),
    "negative response": (with_id("response_ids", -1), "outside the vocabulary of 100"),
    "a candidate twice, side by side": (with_candidates([1, 2, 2, 4], [6, 5, 4.5, 4]), "a candidate stands twice"),
    "a candidate twice, far apart": (with_candidates([7, 2, 3, 7], [6, 5, 4.5, 4]), "a candidate stands twice"),
    "a candidate twice at equal logits": (with_candidates([1, 2, 2, 4], [6, 5, 5, 4]), "not sorted by logit, then id"),
    "no position": (without_positions, "not between 1 and 3 positions"),
    "too many positions": (lambda row: repeated(row, 2), "not between 1 and 3 positions"),
    "no student input": (
        lambda row: replace(row, student_input_ids=np.empty(0, dtype=np.int32)),
        "no student input",
    ),
    "one position too few": (
        lambda row: replace(row, student_positions=row.student_positions[:-1]),
        "different lengths",
    ),
    "positions shifted by one": (
        lambda row: replace(row, student_positions=row.student_positions + np.int32(1)),
        "do not follow its student input",
    ),
    "positions from zero": (
        lambda row: replace(row, student_positions=np.arange(3, dtype=np.int32)),
        "do not follow its student input",
    ),
    "a split of its own": (lambda row: replace(row, split="holdout"), "its split is none of forget, retain"),
    "a split in capitals": (lambda row: replace(row, split="Forget"), "its split is none of"),
    "an example_id that is no hash": (
        lambda row: replace(row, example_id="7"),
        ": its example_id is not 32 hex digits.",
    ),
    "an example_id in capitals": (lambda row: replace(row, example_id="A" * 32), "not 32 hex digits"),
    "an example_id with a line break": (lambda row: replace(row, example_id="a" * 32 + "\n"), "not 32 hex digits"),
    "an example_id that is too long": (lambda row: replace(row, example_id="a" * 33), "not 32 hex digits"),
}


def sound_rows() -> list[Row]:
    return [make_row(index, FINGERPRINT) for index in range(5)]


def test_sound_rows_pass():
    check_rows(rows_to_table(sound_rows(), 4), FINGERPRINT, "here")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_row_is_refused_and_named(fault: str):
    change, message = FAULTS[fault]
    rows = sound_rows()
    rows[FAULTY] = change(rows[FAULTY])
    with pytest.raises(CacheError, match=f"(?s)^here, row {FAULTY} .*{re.escape(message)}"):
        check_rows(rows_to_table(rows, 4), FINGERPRINT, "here")


def test_the_first_of_two_faulty_rows_is_named():
    rows = sound_rows()
    for index in (4, 1):
        rows[index] = with_logit(0, 0, np.nan)(rows[index])
    with pytest.raises(CacheError, match="row 1 "):
        check_rows(rows_to_table(rows, 4), FINGERPRINT, "here")


def test_equal_logits_ordered_by_id_pass():
    rows = sound_rows()
    rows[FAULTY] = with_candidates([2, 5, 9, 1], [6, 6, 6, 4])(rows[FAULTY])
    check_rows(rows_to_table(rows, 4), FINGERPRINT, "here")


def test_the_greatest_and_the_least_id_of_the_vocabulary_pass():
    rows = sound_rows()
    rows[FAULTY] = with_candidates([0, 99, 5, 6], [6, 5, 4, 3])(rows[FAULTY])
    check_rows(rows_to_table(rows, 4), FINGERPRINT, "here")


def test_a_slice_with_the_faulty_row_cut_off_passes():
    rows = sound_rows()
    rows[0] = with_logit(0, 0, np.nan)(rows[0])
    check_rows(rows_to_table(rows, 4).slice(1), FINGERPRINT, "here")


@pytest.mark.parametrize("column", ["topk_ids", "topk_logits", "response_ids"])
def test_columns_of_different_lengths_are_refused(column: str):
    # Column by column both tables are sound; rows 1 and 2 have two and three positions.
    table = rows_to_table([make_row(1, FINGERPRINT)], 4)
    other = rows_to_table([make_row(2, FINGERPRINT)], 4)
    at = table.schema.get_field_index(column)
    with pytest.raises(CacheError, match="different lengths"):
        check_rows(table.set_column(at, table.schema.field(at), other[column]), FINGERPRINT, "here")


def test_another_k_than_the_fingerprint_says_is_refused():
    with pytest.raises(CacheError, match="other columns than format version 1 with K = 5"):
        check_rows(rows_to_table(sound_rows(), 4), make_fingerprint(top_k=5), "here")


def test_a_missing_column_is_refused():
    with pytest.raises(CacheError, match="other columns"):
        check_rows(rows_to_table(sound_rows(), 4).drop_columns(["query"]), FINGERPRINT, "here")


def test_an_additional_column_is_refused():
    table = rows_to_table(sound_rows(), 4).append_column("answer", pa.array(["Paris"] * 5))
    with pytest.raises(CacheError, match="other columns"):
        check_rows(table, FINGERPRINT, "here")


def test_float64_logits_are_refused():
    table = rows_to_table(sound_rows(), 4)
    at = table.schema.get_field_index("topk_logits")
    inner = pa.list_(pa.field("element", pa.float64(), nullable=False), 4)
    field = pa.field("topk_logits", pa.list_(pa.field("element", inner, nullable=False)), nullable=False)
    with pytest.raises(CacheError, match="other columns"):
        check_rows(table.set_column(at, field, table["topk_logits"].cast(field.type)), FINGERPRINT, "here")


def test_an_empty_cell_in_a_column_that_forbids_them_is_refused():
    table = rows_to_table(sound_rows(), 4)
    columns = [column.combine_chunks() for column in table.columns]
    columns[row_schema(4).get_field_index("query")] = pa.array(["a", None, "c", "d", "e"])
    with pytest.raises(CacheError, match="has empty cells"):
        check_rows(pa.Table.from_arrays(columns, schema=row_schema(4)), FINGERPRINT, "here")


# Up to 64 candidates each is compared with each, above they are sorted.
@pytest.mark.parametrize("top_k", [2, 3, 63, 64, 65, 66, 130])
def test_one_id_that_stands_twice_is_found_wherever_it_stands(top_k: int):
    ids_PK = np.stack([np.arange(top_k), np.arange(top_k)[::-1]]).astype(np.int32)
    logits_PK = np.stack([np.arange(top_k)[::-1]] * 2).astype(np.float32)
    assert candidates_hold(ids_PK, logits_PK)

    places = {(0, 1), (0, top_k - 1), (top_k - 2, top_k - 1), (top_k // 2, top_k - 1)}
    for one, other in places - {(place, place) for place in range(top_k)}:
        for position in (0, 1):
            twice = ids_PK.copy()
            twice[position, other] = twice[position, one]
            assert not candidates_hold(twice, logits_PK), (position, one, other)


@pytest.mark.parametrize(
    ("ids", "logits", "holds"),
    [
        # One position after the other starts anew, higher or lower, with the same id or another.
        ([[1, 2], [2, 3]], [[2, 1], [9, 8]], True),
        ([[1, 2], [2, 3]], [[2, 1], [1, 0]], True),
        ([[5, 2], [1, 3]], [[2, 2], [2, 2]], False),
        ([[2, 5], [1, 3]], [[2, 2], [2, 2]], True),
        ([[2, 5], [3, 1]], [[2, 1], [2, 2]], False),
        ([[7], [7], [6]], [[1], [1], [5]], True),
        ([[7], [6]], [[1], [np.nan]], False),
        ([[7, 8]], [[np.inf, 1]], False),
        ([[7, 8]], [[1e4, -1e4]], True),
        ([[7, 8]], [[10_001, 1]], False),
        ([[7, 8]], [[1, -10_001]], False),
        ([[7, 8]], [[1, -np.inf]], False),
        ([[7, 8], [7, 8]], [[2, 1], [1, -np.inf]], False),
        ([[7, 8, 9]], [[3, np.nan, 1]], False),
        ([[7, 8, 9]], [[3, 1, 2]], False),
        (np.empty((0, 3)), np.empty((0, 3)), True),
    ],
)
def test_candidates_hold_if_they_fall_at_each_position(ids: list[list[int]], logits: list[list[float]], holds: bool):
    assert candidates_hold(np.array(ids, dtype=np.int32), np.array(logits, dtype=np.float32)) == holds


def test_a_fault_among_many_candidates_is_named():
    fingerprint = make_fingerprint(top_k=70)
    rows = [make_row(index, fingerprint) for index in range(3)]
    check_rows(rows_to_table(rows, 70), fingerprint, "here")

    ids = rows[1].topk_ids.copy()
    ids[1, 69] = ids[1, 0]
    rows[1] = replace(rows[1], topk_ids=ids)
    with pytest.raises(CacheError, match=r"here, row 1 .*a candidate stands twice"):
        check_rows(rows_to_table(rows, 70), fingerprint, "here")


# Two rows with five positions of four candidates; a row may have three.
VALUES = {
    "example_id": 2, "split": 2, "query": 2, "student_input_ids": 9,
    "response_ids": 5, "student_positions": 5, "topk_ids": 20, "topk_logits": 20,
}  # fmt: skip
TEXTS = ("example_id", "split", "query")
PLAIN, RLE, BIT_PACKED, RLE_DICTIONARY = 0, 3, 4, 8


def group(**changes: dict[str, object]) -> RowGroup:
    """A row group as its footer tells of it, with changes to some of its chunks."""
    chunks = []
    for name, values in VALUES.items():
        fields = {
            "column": name, "is_text": name in TEXTS, "encodings": frozenset({PLAIN, RLE, BIT_PACKED}),
            "values": values, "unpacked_bytes": 100, "packed_bytes": 50, "start": 4,
        }  # fmt: skip
        chunks.append(Chunk(**fields | changes.get(name, {})))
    return RowGroup(2, tuple(chunks))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"student_input_ids": {"values": 2**24}},
        {"student_input_ids": {"unpacked_bytes": 2**28}},
        {"query": {"unpacked_bytes": 2**28}},
        {"topk_logits": {"packed_bytes": 2**28}},
        {"query": {"unpacked_bytes": 2**27, "encodings": frozenset({RLE, RLE_DICTIONARY})}},
        {"topk_ids": {"unpacked_bytes": 2**28, "encodings": frozenset({RLE_DICTIONARY})}},
        {name: {"values": 6} for name in ("response_ids", "student_positions")}
        | {name: {"values": 24} for name in ("topk_ids", "topk_logits")},
        {name: {"values": 2} for name in ("response_ids", "student_positions", "student_input_ids")}
        | {name: {"values": 8} for name in ("topk_ids", "topk_logits")},
    ],
)
def test_a_row_group_may_be_as_large_as_its_rows_can_be(changes: dict[str, dict[str, object]]):
    positions = changes.get("response_ids", {"values": 5})["values"]
    assert check_size(group(**changes), FINGERPRINT, "here") == positions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_logits": {"packed_bytes": 2**28 + 1}}, "of topk_logits in 268,435,457 bytes"),
        ({"student_input_ids": {"values": 1}}, r"values of response_ids or student_input_ids\."),
        ({"split": {"values": 1}, "topk_logits": {"values": 16}}, r"values of split\."),
        ({"student_input_ids": {"values": 2**24 + 1}}, "16,777,217 values of student_input_ids"),
        ({"student_input_ids": {"unpacked_bytes": 2**28 + 1}}, "in 268,435,457 bytes"),
        ({"query": {"unpacked_bytes": 2**28 + 1}}, "in 268,435,457 bytes"),
        # Each of the two texts may be all that the dictionary holds.
        (
            {"query": {"unpacked_bytes": 2**27 + 1, "encodings": frozenset({PLAIN, RLE_DICTIONARY})}},
            "2 values of query in 268,435,458 bytes",
        ),
        *(({name: {"values": 3}}, f"3 values of {name} in .* hold at most 2 values") for name in TEXTS),
        *(
            ({name: {"values": 7}}, f"7 values of {name} in .* hold at most 6 values")
            for name in ("response_ids", "student_positions")
        ),
        *(
            ({name: {"values": 25}}, f"25 values of {name} in .* hold at most 24 values")
            for name in ("topk_ids", "topk_logits")
        ),
        *(({name: {"values": 1}}, f"values of {name}") for name in TEXTS),
        ({"student_positions": {"values": 4}}, "values of student_positions"),
        ({"topk_ids": {"values": 16}}, "values of topk_ids"),
        ({"topk_logits": {"values": 24}}, "values of topk_logits"),
        ({"query": {"column": "split"}}, "other column chunks"),
    ],
)
def test_a_row_group_that_says_it_holds_more_or_less_than_its_rows_is_refused(
    changes: dict[str, dict[str, object]], message: str
):
    with pytest.raises(CacheError, match=f"^here .*{message}"):
        check_size(group(**changes), FINGERPRINT, "here")


@pytest.mark.parametrize("value", [1e30, 10_001.0])
def test_a_logit_that_no_teacher_says_is_refused(value: float):
    rows = sound_rows()
    rows[FAULTY] = with_logit(0, 0, value)(rows[FAULTY])
    with pytest.raises(CacheError, match=f"row {FAULTY} .*a logit lies beyond ±10,000"):
        check_rows(rows_to_table(rows, 4), FINGERPRINT, "here")


def test_logits_at_the_bound_pass():
    rows = sound_rows()
    rows[FAULTY] = with_candidates([1, 2, 3, 4], [10_000, 5, 4, -10_000])(rows[FAULTY])
    check_rows(rows_to_table(rows, 4), FINGERPRINT, "here")


@pytest.mark.parametrize(
    ("said", "logits", "is_greedy"),
    [
        (1, [6, 5, 4, 3], True),
        (2, [6, 5, 4, 3], False),  # a candidate, but not the greatest
        (4, [6, 5, 4, 3], False),  # nor the least
        (9, [6, 5, 4, 3], False),  # no candidate
        (2, [6, 6, 4, 3], True),  # a tie for the greatest
        (3, [6, 6, 4, 3], False),
        (9, [6, 6, 6, 3], False),
        (9, [6, 5, 5, 5], False),
        (9, [6, 6, 6, 6], True),  # all tie, so that a fifth may, too
    ],
)
def test_the_answer_is_a_greatest_logits(said: int, logits: list[float], is_greedy: bool):
    rows = sound_rows()
    rows[FAULTY] = with_id("response_ids", said)(with_candidates([1, 2, 3, 4], logits)(rows[FAULTY]))
    table = rows_to_table(rows, 4)
    if is_greedy:
        check_rows(table, FINGERPRINT, "here")
    else:
        with pytest.raises(CacheError, match=f"row {FAULTY} .*its response is not the greatest logit's"):
            check_rows(table, FINGERPRINT, "here")


# Above MOST_COMPARED candidates they are sorted to find one that stands twice.
WIDE = make_fingerprint(top_k=65, vocab_size=200)


@pytest.mark.parametrize(
    ("place", "copied_from", "message"),
    [(64, 0, "a candidate stands twice"), (1, 0, "a candidate stands twice"), (64, 63, "a candidate stands twice")],
)
def test_a_candidate_that_stands_twice_among_many_is_refused(place: int, copied_from: int, message: str):
    rows = [make_row(index, WIDE) for index in range(5)]
    check_rows(rows_to_table(rows, 65), WIDE, "here")
    rows[FAULTY].topk_ids[1, place] = rows[FAULTY].topk_ids[1, copied_from]
    with pytest.raises(CacheError, match=f"row {FAULTY} .*{message}"):
        check_rows(rows_to_table(rows, 65), WIDE, "here")


def test_many_candidates_that_are_not_sorted_are_refused():
    rows = [make_row(index, WIDE) for index in range(5)]
    rows[FAULTY].topk_logits[2, [63, 64]] = rows[FAULTY].topk_logits[2, [64, 63]]
    with pytest.raises(CacheError, match=f"row {FAULTY} .*not sorted by logit"):
        check_rows(rows_to_table(rows, 65), WIDE, "here")


def test_a_query_may_be_one_token_and_its_answer_one_position():
    row = make_row(0, FINGERPRINT)
    row = replace(row, student_input_ids=np.array([7], dtype=np.int32), student_positions=np.array([0], dtype=np.int32))
    check_rows(rows_to_table([row], 4), FINGERPRINT, "here")


def test_an_example_id_is_held_to_the_query_where_its_text_was_not_left_out():
    rows = sound_rows()
    rows[1] = replace(rows[1], example_id="0" * 32, query="")
    check_example_ids(rows_to_table(rows, 4), "here")
    rows[FAULTY] = replace(rows[FAULTY], example_id="0" * 32)
    with pytest.raises(
        CacheError, match=r"^here, row 2 \(example 0{32}\): its example_id is not the hash of its query\."
    ):
        check_example_ids(rows_to_table(rows, 4), "here")


def test_a_column_alone_is_checked_and_its_row_named_without_its_example():
    rows = sound_rows()
    rows[FAULTY] = replace(rows[FAULTY], split="holdout")
    table = rows_to_table(rows, 4)
    check_names(table.select(["example_id", "query"]), "here")
    with pytest.raises(CacheError, match=rf"^here, row 2 \(example {rows[FAULTY].example_id}\): its split is none"):
        check_names(table, "here")
    with pytest.raises(CacheError, match=r"^here, row 2: its split is none of forget, retain\."):
        check_names(table.select(["split"]), "here")
