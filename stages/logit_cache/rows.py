"""The rows of a cache: what one example holds, and how it lies in Parquet.

Rows in, Arrow tables out, and back. It knows the shape of a row, and nothing of files, hashes or models.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa

Split = Literal["forget", "retain"]
SPLITS: tuple[Split, ...] = ("forget", "retain")


@dataclass(frozen=True, eq=False)
class Row:
    """One example: what the student reads, and what the teacher says at each supervised position.

    student_input_ids: int32 [L], the query through the student's template, without the prefix.
    response_ids: int32 [T], the teacher's greedy tokens; the student reads all but the last.
    student_positions: int32 [T], indices into student_input_ids ++ response_ids; the logits that the student
        computes *at* index student_positions[t] are taught by topk[t]. Always len(student_input_ids) - 1 + t.
    topk_ids, topk_logits: int32 and float32 [T, K], sorted by logit descending, then by id ascending.
    """

    example_id: str
    split: Split
    query: str
    student_input_ids: np.ndarray
    response_ids: np.ndarray
    student_positions: np.ndarray
    topk_ids: np.ndarray
    topk_logits: np.ndarray

    def first(self, *, positions: int | None = None, top_k: int | None = None) -> "Row":
        """The row as a capture of fewer positions or candidates would have given it; None keeps all."""
        own = slice(positions)
        return replace(
            self,
            response_ids=self.response_ids[own],
            student_positions=self.student_positions[own],
            topk_ids=self.topk_ids[own, :top_k],
            topk_logits=self.topk_logits[own, :top_k],
        )


def example_id(query: str) -> str:
    """128 bits of SHA-256 over the query's NFC text: the same query has one id in every cache, at every K."""
    return hashlib.sha256(unicodedata.normalize("NFC", query).encode()).hexdigest()[:32]


@lru_cache
def row_schema(top_k: int) -> pa.Schema:
    """The Arrow schema of a shard. No field is nullable, and neither is anything inside a list."""

    def tokens() -> pa.DataType:
        return pa.list_(pa.field("element", pa.int32(), nullable=False))

    def candidates(kind: pa.DataType) -> pa.DataType:
        inner = pa.list_(pa.field("element", kind, nullable=False), top_k)
        return pa.list_(pa.field("element", inner, nullable=False))

    columns = {
        "example_id": pa.string(),
        "split": pa.string(),
        "query": pa.string(),
        "student_input_ids": tokens(),
        "response_ids": tokens(),
        "student_positions": tokens(),
        "topk_ids": candidates(pa.int32()),
        "topk_logits": candidates(pa.float32()),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def rows_to_table(rows: Sequence[Row], top_k: int) -> pa.Table:
    """Arrow table of the rows, in their order."""
    schema = row_schema(top_k)
    ids = np.concatenate([row.topk_ids for row in rows])
    logits = np.concatenate([row.topk_logits for row in rows])
    positions = _offsets([len(row.response_ids) for row in rows])
    columns = [
        pa.array([row.example_id for row in rows]),
        pa.array([row.split for row in rows]),
        pa.array([row.query for row in rows]),
        _ragged([row.student_input_ids for row in rows], schema.field("student_input_ids").type),
        _ragged([row.response_ids for row in rows], schema.field("response_ids").type),
        _ragged([row.student_positions for row in rows], schema.field("student_positions").type),
        _ragged_candidates(ids, positions, schema.field("topk_ids").type),
        _ragged_candidates(logits, positions, schema.field("topk_logits").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def table_to_rows(table: pa.Table) -> list[Row]:
    """The rows of a table that `validate.check_rows` has passed; arrays are views, nothing is copied twice."""
    batch = table.combine_chunks()
    ids = ragged_matrix(batch["topk_ids"])
    logits = ragged_matrix(batch["topk_logits"])
    tokens = {name: ragged(batch[name]) for name in ("student_input_ids", "response_ids", "student_positions")}
    names = {name: batch[name].to_pylist() for name in ("example_id", "split", "query")}

    def cut(column: tuple[np.ndarray, np.ndarray], index: int) -> np.ndarray:
        values, offsets = column
        return values[offsets[index] : offsets[index + 1]]

    return [
        Row(
            example_id=names["example_id"][index],
            split=names["split"][index],
            query=names["query"][index],
            student_input_ids=cut(tokens["student_input_ids"], index),
            response_ids=cut(tokens["response_ids"], index),
            student_positions=cut(tokens["student_positions"], index),
            topk_ids=cut(ids, index),
            topk_logits=cut(logits, index),
        )
        for index in range(batch.num_rows)
    ]


def ragged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values [sum of lengths] and offsets [rows + 1] of a list column; the values are a view."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy()
    return np.asarray(array.flatten()), offsets - offsets[0]


def ragged_matrix(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values [positions, K] and offsets [rows + 1] of a list<fixed_size_list> column; the values are a view.

    `FixedSizeListArray.to_numpy` would copy; two `flatten` calls and a reshape do not.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy()
    inner = array.flatten()
    values = np.asarray(inner.flatten()).reshape(-1, inner.type.list_size)
    return values, offsets - offsets[0]


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), type=pa.int32())


def _ragged(parts: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    values = pa.array(np.concatenate(parts).astype(np.int32))
    return pa.ListArray.from_arrays(_offsets([len(part) for part in parts]), values, type=kind)


def _ragged_candidates(values_PK: np.ndarray, offsets: pa.Array, kind: pa.DataType) -> pa.Array:
    flat = pa.array(values_PK.reshape(-1), type=kind.value_type.value_type)
    inner = pa.FixedSizeListArray.from_arrays(flat, type=kind.value_type)
    return pa.ListArray.from_arrays(offsets, inner, type=kind)
