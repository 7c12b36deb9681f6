"""What every row must satisfy before anything trains on it.

One table in, nothing out, or a CacheError that names the row. Used by the writer on what it has just written, by
`verify`, and by the reader on shards that came from elsewhere.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import CacheError
from stages.logit_cache.fingerprint import Fingerprint
from stages.logit_cache.footer import RowGroup
from stages.logit_cache.rows import SPLITS, example_id, ragged, ragged_matrix, row_schema

# The writer's row groups hold 2^17 candidates, or one row. These are far beyond, and still fit into memory.
LARGEST_GROUP_VALUES = 2**24
LARGEST_COLUMN_BYTES = 2**28
KNOWN_SPLITS = pa.array(SPLITS)
EXAMPLE_ID = "^[0-9a-f]{32}$"
# Raw logits of language models lie within some hundred units of zero; a student that is to say 1e30 is destroyed by the
# first step. Ten times what any teacher says.
LARGEST_LOGIT = 1e4
# Up to here comparing each candidate with each costs less than sorting them.
MOST_COMPARED = 64
# Encodings in which a text takes its own length (plain, and the two of levels); in any other, each of them may stand for
# the whole column.
PLAIN = {0, 3, 4}


def check_schema(schema: pa.Schema, top_k: int, where: str) -> None:
    """Names and types of the columns are those of the format."""
    if not schema.remove_metadata().equals(row_schema(top_k)):
        raise CacheError(
            f"{where} has other columns than format version 1 with K = {top_k}.",
            "A shard that is read by guessing may teach wrong tokens, so nothing was read.",
        )


def check_size(group: RowGroup, fingerprint: Fingerprint, where: str) -> int:
    """Positions of a row group, which does not unpack to more than its rows hold: a few kilobytes may stand for gigabytes.

    Raises CacheError; also where the columns disagree on how many rows or positions there are.
    """
    names = row_schema(fingerprint.top_k).names
    if [chunk.column for chunk in group.chunks] != names:
        raise CacheError(f"{where} has other column chunks than {', '.join(names)}.", "Nothing was read.")
    per_position = fingerprint.positions * fingerprint.top_k
    most = {
        "example_id": 1, "split": 1, "query": 1,
        "response_ids": fingerprint.positions, "student_positions": fingerprint.positions,
        "topk_ids": per_position, "topk_logits": per_position,
    }  # fmt: skip
    for chunk in group.chunks:
        values = min(most.get(chunk.column, LARGEST_GROUP_VALUES) * group.rows, LARGEST_GROUP_VALUES)
        size = max(chunk.unpacked_bytes, chunk.packed_bytes)
        if chunk.is_text and not PLAIN.issuperset(chunk.encodings):
            size *= chunk.values
        if chunk.values > values or size > LARGEST_COLUMN_BYTES:
            raise CacheError(
                f"{where} would unpack to {chunk.values:,} values of {chunk.column} in {size:,} bytes; "
                f"its {group.rows:,} rows hold at most {values:,} values in {LARGEST_COLUMN_BYTES:,} bytes.",
                "A shard like this is made to exhaust memory, so nothing was read.",
            )
    counts = {chunk.column: chunk.values for chunk in group.chunks}
    rows, positions = group.rows, counts["response_ids"]
    expected = {
        "example_id": rows, "split": rows, "query": rows, "student_positions": positions,
        "topk_ids": positions * fingerprint.top_k, "topk_logits": positions * fingerprint.top_k,
    }  # fmt: skip
    # Of an empty list one value is counted, so that no row has fewer than one.
    differing = [name for name, count in expected.items() if counts[name] != count]
    if differing or min(positions, counts["student_input_ids"]) < rows:
        name = differing[0] if differing else "response_ids or student_input_ids"
        raise CacheError(
            f"{where} has {rows:,} rows and {positions:,} positions, and not as many values of {name}.",
            "Some rows would be read short, so nothing was read.",
        )
    return positions


def check_names(table: pa.Table, where: str) -> None:
    """Splits and example ids, as far as the table has them, are some. Raises CacheError with the first faulty row."""
    checks: dict[str, tuple[Callable[[pa.ChunkedArray], pa.ChunkedArray], str]] = {
        "split": (lambda column: pc.is_in(column, KNOWN_SPLITS), f"its split is none of {', '.join(SPLITS)}"),
        "example_id": (
            lambda column: pc.match_substring_regex(column, EXAMPLE_ID),
            "its example_id is not 32 hex digits",
        ),
    }
    for name in checks.keys() & set(table.column_names):
        holds, what = checks[name]
        if not (sound := holds(table[name]).to_numpy()).all():
            row = int(np.argmin(sound))
            raise CacheError(f"{where}, row {row}{_example(table, row)}: {what}.")


def check_example_ids(table: pa.Table, where: str) -> None:
    """Each example_id is the hash of the row's query, where its text was not left out. Raises CacheError."""
    pairs = zip(table["example_id"].to_pylist(), table["query"].to_pylist(), strict=True)
    for row, (found, query) in enumerate(pairs):
        if query and example_id(query) != found:
            raise CacheError(f"{where}, row {row} (example {found}): its example_id is not the hash of its query.")


def check_rows(table: pa.Table, fingerprint: Fingerprint, where: str) -> None:
    """Every row of the table is complete, sorted, finite and inside the vocabulary.

    where: names the table in the error, for instance the shard's file name.
    Raises CacheError with the first faulty row's number and what is wrong with it.
    """
    check_schema(table.schema, fingerprint.top_k, where)
    if any(column.null_count for column in table.columns):
        raise CacheError(f"{where} has empty cells.")

    def refuse(bad_rows: np.ndarray, what: str) -> None:
        if bad_rows.any():
            row = int(np.argmax(bad_rows))
            raise CacheError(f"{where}, row {row} (example {table['example_id'][row]}): {what}.")

    check_names(table, where)
    inputs, input_offsets = ragged(table["student_input_ids"])
    responses, response_offsets = ragged(table["response_ids"])
    positions, position_offsets = ragged(table["student_positions"])
    ids_PK, id_offsets = ragged_matrix(table["topk_ids"])
    logits_PK, logit_offsets = ragged_matrix(table["topk_logits"])
    lengths = np.diff(response_offsets)

    refuse(np.diff(input_offsets) < 1, "it has no student input")
    refuse(
        (lengths < 1) | (lengths > fingerprint.positions), f"it has not between 1 and {fingerprint.positions} positions"
    )
    for offsets in (position_offsets, id_offsets, logit_offsets):
        refuse(np.diff(offsets) != lengths, "its lists of positions have different lengths")

    row_of_position = np.repeat(np.arange(table.num_rows), lengths)
    row_of_input = np.repeat(np.arange(table.num_rows), np.diff(input_offsets))

    def refuse_any(bad: np.ndarray, row_of: np.ndarray, what: str) -> None:
        if bad.any():
            refuse(np.bincount(row_of[bad.reshape(len(row_of), -1).any(axis=1)], minlength=table.num_rows) > 0, what)

    first = np.repeat(np.diff(input_offsets) - 1, lengths)
    step = np.arange(len(positions)) - np.repeat(response_offsets[:-1], lengths)
    refuse_any(positions != first + step, row_of_position, "its student_positions do not follow its student input")

    vocabulary = fingerprint.vocab_size
    for values, row_of in ((inputs, row_of_input), (responses, row_of_position), (ids_PK, row_of_position)):
        if values.view(np.uint32).max(initial=0) >= vocabulary:  # as such, a negative id lies beyond 2^31
            refuse_any(
                (values < 0) | (values >= vocabulary), row_of, f"a token id is outside the vocabulary of {vocabulary}"
            )
    if candidates_hold(ids_PK, logits_PK):
        refuse_any(
            ~are_greedy(responses, ids_PK, logits_PK), row_of_position, "its response is not the greatest logit's"
        )
        return
    # What is wrong, and where, is looked for only when something is: that costs more than all checks together.
    refuse_any(~np.isfinite(logits_PK), row_of_position, "a logit is not finite")
    refuse_any(np.abs(logits_PK) > LARGEST_LOGIT, row_of_position, f"a logit lies beyond ±{LARGEST_LOGIT:,.0f}")
    falling = logits_PK[:, :-1] - logits_PK[:, 1:]
    tied_in_order = (falling == 0) & (ids_PK[:, :-1] < ids_PK[:, 1:])
    refuse_any(~((falling > 0) | tied_in_order), row_of_position, "its candidates are not sorted by logit, then id")
    sorted_ids = np.sort(ids_PK, axis=1)
    refuse_any(sorted_ids[:, :-1] == sorted_ids[:, 1:], row_of_position, "a candidate stands twice at one position")


def candidates_hold(ids_PK: np.ndarray, logits_PK: np.ndarray) -> bool:
    """Whether at every position the logits are finite, within LARGEST_LOGIT, and fall, ties rise by id, and no id stands twice.

    Reading a cache is bound by this and by decompression, so it goes through memory in straight lines.
    """
    top_k = ids_PK.shape[1]
    ids, logits = ids_PK.reshape(-1), logits_PK.reshape(-1)
    level = np.flatnonzero(~(logits[:-1] > logits[1:]))
    level = level[(level + 1) % top_k != 0]  # the last of a position and the first of the next are no neighbours
    if not ((logits[level] == logits[level + 1]) & (ids[level] < ids[level + 1])).all():
        return False
    # They fall, so all lie between the first and the last; a comparison with NaN is False.
    if not ((logits_PK[:, 0] <= LARGEST_LOGIT).all() and (logits_PK[:, -1] >= -LARGEST_LOGIT).all()):
        return False
    if top_k > MOST_COMPARED:
        ids_PK = np.sort(ids_PK, axis=1)
        return not (ids_PK[:, :-1] == ids_PK[:, 1:]).any()
    ids_KP = np.ascontiguousarray(ids_PK.T)
    return not any((ids_KP[apart:] == ids_KP[:-apart]).any() for apart in range(1, top_k))


def are_greedy(responses_P: np.ndarray, ids_PK: np.ndarray, logits_PK: np.ndarray) -> np.ndarray:
    """bool [P]: whether the response is a candidate whose logit no other exceeds.

    Where all K logits are equal, further ids outside the candidates may have the same, and any of them is greedy.
    """
    greedy_P: np.ndarray = ids_PK[:, 0] == responses_P
    if not greedy_P.all():
        other = np.flatnonzero(~greedy_P)
        ids, logits = ids_PK[other], logits_PK[other]
        tied = ((ids == responses_P[other, None]) & (logits == logits[:, :1])).any(axis=1)
        greedy_P[other] = tied | (logits[:, 0] == logits[:, -1])
    return greedy_P


def _example(table: pa.Table, row: int) -> str:
    return f" (example {table['example_id'][row]})" if "example_id" in table.column_names else ""
