"""Rows to Arrow and back, to the bit."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import assert_same_row, make_fingerprint, make_row

from stages.logit_cache.rows import Row, example_id, ragged, ragged_matrix, row_schema, rows_to_table, table_to_rows

FINGERPRINT = make_fingerprint()


def make_rows(count: int) -> list[Row]:
    return [make_row(index, FINGERPRINT) for index in range(count)]


def test_example_id_is_the_first_half_of_the_sha256_of_the_text():
    query = "What is the capital of France?"
    assert example_id(query) == hashlib.sha256(query.encode()).hexdigest()[:32]


def test_example_id_is_the_same_for_composed_and_decomposed_accents():
    assert example_id("Bogot\u00e1") == example_id("Bogota\u0301")


def test_example_id_tells_case_apart():
    assert example_id("Paris") != example_id("paris")


def test_rows_survive_the_table_to_the_bit():
    rows = make_rows(10)
    for before, after in zip(rows, table_to_rows(rows_to_table(rows, 4)), strict=True):
        assert_same_row(before, after)


def test_extreme_logits_survive_to_the_bit():
    largest = np.finfo(np.float32).max
    smallest = np.finfo(np.float32).smallest_subnormal
    row = replace(
        make_row(0, FINGERPRINT), topk_logits=np.array([[largest, smallest, 0.0, -largest]], dtype=np.float32)
    )
    assert_same_row(table_to_rows(rows_to_table([row], 4))[0], row)


def test_a_slice_of_a_table_gives_its_own_rows():
    rows = make_rows(10)
    sliced = table_to_rows(rows_to_table(rows, 4).slice(3, 5))
    assert len(sliced) == 5
    for before, after in zip(rows[3:8], sliced, strict=True):
        assert_same_row(before, after)


def test_chunks_are_joined_in_order():
    rows = make_rows(7)
    table = pa.concat_tables([rows_to_table(rows[:3], 4), rows_to_table(rows[3:], 4)])
    assert table["topk_ids"].num_chunks == 2
    for before, after in zip(rows, table_to_rows(table), strict=True):
        assert_same_row(before, after)


def test_ragged_gives_values_and_offsets_from_zero_for_a_slice():
    column = pa.chunked_array([pa.array([[9, 9, 9], [1], [], [2, 3]], type=pa.list_(pa.int32()))]).slice(1)
    values, offsets = ragged(column)
    assert values.tolist() == [1, 2, 3]
    assert offsets.tolist() == [0, 1, 1, 3]


def test_a_slice_that_is_no_chunked_column_gives_its_own_values_and_offsets_from_zero():
    lists = pa.array([[9, 9, 9], [1], [], [2, 3]], type=pa.list_(pa.int32())).slice(1)
    values, offsets = ragged(lists)
    assert (values.tolist(), offsets.tolist()) == ([1, 2, 3], [0, 1, 1, 3])

    kind = pa.list_(pa.list_(pa.int32(), 2))
    candidates, offsets = ragged_matrix(pa.array([[[9, 9]], [[1, 2], [3, 4]], [[5, 6]]], type=kind).slice(1))
    assert (candidates.tolist(), offsets.tolist()) == ([[1, 2], [3, 4], [5, 6]], [0, 2, 3])


def test_ragged_matrix_keeps_candidates_of_one_position_together():
    kind = pa.list_(pa.list_(pa.int32(), 2))
    column = pa.chunked_array([pa.array([[[9, 9]], [[1, 2], [3, 4]], [[5, 6]]], type=kind)]).slice(1)
    values, offsets = ragged_matrix(column)
    assert values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert offsets.tolist() == [0, 2, 3]


def test_the_columns_have_the_names_and_types_of_the_format_page():
    assert [(field.name, str(field.type)) for field in row_schema(4)] == [
        ("example_id", "string"),
        ("split", "string"),
        ("query", "string"),
        ("student_input_ids", "list<element: int32 not null>"),
        ("response_ids", "list<element: int32 not null>"),
        ("student_positions", "list<element: int32 not null>"),
        ("topk_ids", "list<element: fixed_size_list<element: int32 not null>[4] not null>"),
        ("topk_logits", "list<element: fixed_size_list<element: float not null>[4] not null>"),
    ]


@pytest.mark.parametrize("field", row_schema(4))
def test_no_field_may_be_empty_at_any_depth(field: pa.Field):
    while True:
        assert not field.nullable
        if not (pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)):
            break
        field = field.type.value_field


def test_candidates_are_lists_of_exactly_k_int32_and_float32():
    schema = row_schema(7)
    for name, kind in (("topk_ids", pa.int32()), ("topk_logits", pa.float32())):
        inner = schema.field(name).type.value_type
        assert inner.list_size == 7
        assert inner.value_type == kind


def test_the_first_of_a_row_is_what_a_smaller_capture_would_have_been() -> None:
    whole = make_row(2, make_fingerprint())  # three positions, four candidates
    part = whole.first(positions=2, top_k=3)

    assert (part.topk_ids.shape, len(part.response_ids), len(part.student_positions)) == ((2, 3), 2, 2)
    assert (part.topk_ids == whole.topk_ids[:2, :3]).all()
    assert (part.topk_logits == whole.topk_logits[:2, :3]).all()
    assert (part.student_input_ids == whole.student_input_ids).all()
    assert_same_row(whole.first(), whole)
    assert_same_row(whole.first(positions=9, top_k=9), whole)
