"""Harm to rows: a shard is written anew by pyarrow with wrong values, or with right ones in another form, and vouched for."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostility.bases import Files, shard_names, table_of, vouched
from hostility.case import Case

from stages.logit_cache.manifest import SHARDS

Row = dict[str, Any]
ABSURD = (1e30, -1e30, 3e38, 1e4, 1.0001e4, -2e4, 1e-40, 0.0, -0.0, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "query 1", "\0", "\u202e", "a" * 10_000, "\u0065\u0301", "é", "query 0 ")
IDS = ("0" * 32, "0" * 31, "0" * 33, "A" * 32, "g" * 32, "", "0" * 32 + "\n", "٠" * 32)


def logits(rng: Random, row: Row) -> str:
    t = rng.randrange(len(row["topk_logits"]))
    values = list(row["topk_logits"][t])
    k = rng.randrange(len(values))
    match rng.randrange(6):
        case 0:
            values[k] = rng.choice(ABSURD)
        case 1:
            values = [rng.choice(ABSURD)] * len(values)
        case 2:
            values.reverse()
        case 3:
            values[k] = values[k - 1]
        case 4:
            values = [float(np.float32(each + 0.25)) for each in values]
        case _:
            scale = rng.choice([1e3, 1e20, -1.0])
            values = [float(np.float32(each * scale)) for each in values]
    row["topk_logits"][t] = values
    return "logits"


def candidates(rng: Random, row: Row) -> str:
    t = rng.randrange(len(row["topk_ids"]))
    ids = list(row["topk_ids"][t])
    k = rng.randrange(len(ids))
    ids[k] = rng.choice([ids[k - 1], -1, 99, 100, 199, 200, 2**31 - 1, -(2**31), (ids[k] + 1) % 100])
    if rng.random() < 0.3:
        rng.shuffle(ids)
    row["topk_ids"][t] = ids
    return "candidates"


def response(rng: Random, row: Row) -> str:
    t = rng.randrange(len(row["response_ids"]))
    row["response_ids"][t] = rng.choice([0, -1, 100, 200, 2**31 - 1, rng.choice(row["topk_ids"][t])])
    return "a response token"


def inputs(rng: Random, row: Row) -> str:
    """Other tokens of the query, or more or fewer of them, the positions with them or not."""
    ids = list(row["student_input_ids"])
    match rng.randrange(4):
        case 0:
            ids[rng.randrange(len(ids))] = rng.choice([-1, 0, 99, 100, 200, 2**31 - 1])
        case 1:
            ids = []
        case 2:
            ids = ids[:-1]
        case _:
            ids = ids * rng.choice([2, 1000])
    if rng.random() < 0.5:
        row["student_positions"] = [len(ids) - 1 + t for t in range(len(row["response_ids"]))]
    row["student_input_ids"] = ids
    return "student inputs"


def positions(rng: Random, row: Row) -> str:
    found = row["student_positions"]
    row["student_positions"] = rng.choice(
        [
            [each + 1 for each in found],
            [each - 1 for each in found],
            found[::-1],
            found + found[-1:],
            found[:-1],
            [0] * len(found),
        ]
    )
    return "student positions"


def lengths(rng: Random, row: Row) -> str:
    """One more or one fewer position, in one list or in all five."""
    names = ["response_ids", "student_positions", "topk_ids", "topk_logits"]
    chosen = names if rng.random() < 0.5 else [rng.choice(names)]
    for name in chosen:
        row[name] = row[name] + row[name][-1:] if rng.random() < 0.5 else row[name][:-1]
    if rng.random() < 0.3:
        for name in names:
            row[name] = []
    return f"lengths of {len(chosen)} lists"


def names(rng: Random, row: Row) -> str:
    which = rng.choice(["example_id", "query", "split"])
    values = {"example_id": IDS, "query": TEXTS, "split": ("forget", "retain", "Forget", "", "test", "forget\0")}
    row[which] = rng.choice(values[which])
    return which


ROW_KINDS: tuple[Callable[[Random, Row], str], ...] = (
    logits, logits, candidates, response, inputs, positions, lengths, names,
)  # fmt: skip


def whole(rng: Random, rows: list[Row]) -> str:
    """Rows of the shard exchanged, repeated, left out, or with each other's columns."""
    match rng.randrange(5):
        case 0:
            rng.shuffle(rows)
            return "rows in another order"
        case 1:
            rows.append(dict(rng.choice(rows)))
            return "a row stands twice"
        case 2:
            rows.pop()
            return "a row is missing"
        case 3:
            name = rng.choice(list(rows[0]))
            one, other = rng.sample(range(len(rows)), 2) if len(rows) > 1 else (0, 0)
            rows[one][name], rows[other][name] = rows[other][name], rows[one][name]
            return f"two rows exchange their {name}"
        case _:
            for row in rows:
                row["split"] = {"forget": "retain", "retain": "forget"}[row["split"]]
            return "splits are exchanged"


def other_types(rng: Random, table: pa.Table) -> tuple[str, pa.Table]:  # noqa: PLR0911
    """A column of another type, nullable, under another name, gone, or one more."""
    at = rng.randrange(table.num_columns)
    field, column = table.schema.field(at), table.column(at)
    match rng.randrange(7):
        case 0:
            return f"{field.name} is gone", table.remove_column(at)
        case 1:
            return "a column more", table.append_column("note", pa.array(["x"] * table.num_rows))
        case 2:
            return f"{field.name} is nullable", table.set_column(at, field.with_nullable(True), column)
        case 3:
            values = column.to_pylist()
            values[rng.randrange(len(values))] = None
            nulls = pa.array(values, type=field.type)
            return f"{field.name} has a null", table.set_column(at, field.with_nullable(True), nulls)
        case 4:
            return "columns in another order", table.select(rng.sample(table.column_names, table.num_columns))
        case 5:
            kinds = {"string": pa.large_string(), "list": pa.large_list(pa.int32())}
            name = rng.choice(["example_id", "split", "query"])
            at = table.schema.get_field_index(name)
            return f"{name} is of another type", table.set_column(at, name, table[name].cast(kinds["string"]))
        case _:
            name = rng.choice(["student_input_ids", "response_ids", "student_positions"])
            at = table.schema.get_field_index(name)
            wide = table[name].cast(pa.list_(rng.choice([pa.int64(), pa.float64(), pa.uint32()])), safe=False)
            return f"{name} is of another type", table.set_column(at, name, wide)


def forms(rng: Random) -> dict[str, Any]:
    """Ways to write a table: all legitimate Parquet."""
    options: dict[str, Any] = {"compression": rng.choice(["zstd", "zstd", "snappy", "none", "gzip", "lz4"])}
    options["row_group_size"] = rng.choice([1, 2, 3, 1000])
    options["use_dictionary"] = rng.choice([True, False])
    options["write_statistics"] = rng.choice([True, False])
    options["data_page_version"] = rng.choice(["1.0", "2.0"])
    options["data_page_size"] = rng.choice([1, 64, 2**20])
    options["store_schema"] = rng.random() < 0.8
    options["version"] = rng.choice(["2.6", "2.4", "1.0"])
    return options


def claims(content: bytes, index: int) -> Callable[[dict[str, Any]], None]:
    """The manifest says of a shard what stands in it, as far as that can be read."""

    def change(raw: dict[str, Any]) -> None:
        table, shards = table_of(content), raw["shards"]
        shards[index]["rows"] = table.num_rows
        try:
            values = [each for row in table["topk_logits"].to_pylist() for position in row for each in position]
            shards[index]["positions"] = sum(map(len, table["topk_logits"].to_pylist()))
            if values and np.isfinite(values).all():
                found = np.array(values, dtype=np.float32)
                shards[index]["logit_min"], shards[index]["logit_max"] = float(found.min()), float(found.max())
                shards[index]["logit_mean"] = float(found.mean(dtype=np.float64))
        except (KeyError, TypeError):
            pass
        first = 0
        for each in shards:
            each["first_row"], first = first, first + each["rows"]
        raw["rows"], raw["positions"] = first, sum(each["positions"] for each in shards)

    return change


def recount(files: Files) -> Files:
    """The manifest's splits are those of the rows."""

    def change(raw: dict[str, Any]) -> None:
        splits: dict[str, int] = {}
        for shard in raw["shards"]:
            for each in table_of(files[f"{SHARDS}/{shard['name']}"])["split"].to_pylist():
                splits[each] = splits.get(each, 0) + 1
        if set(splits) <= {"forget", "retain"}:
            raw["splits"] = splits

    return vouched(files, change)


def harm(rng: Random, files: Files) -> Case:
    """Wrong values, or the same in another form; mostly with a manifest that says what now stands there."""
    shards = shard_names(files)
    name = rng.choice(shards)
    table = table_of(files[name])
    kind = rng.choice(["row"] * 5 + ["whole"] * 2 + ["types", "form"])
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}
    if kind == "form" or rng.random() < 0.2:
        options = forms(rng)
    if kind == "types":
        what, table = other_types(rng, table)
    elif kind == "form":
        what = "another form: " + ", ".join(f"{key} {value}" for key, value in options.items())
    else:
        rows = table.to_pylist()
        if kind == "row":
            chosen = rng.sample(rows, min(rng.choice([1, 1, 2]), len(rows)))
            what = "; ".join(rng.choice(ROW_KINDS)(rng, row) for row in chosen)
        else:
            what = whole(rng, rows)
        try:
            table = pa.Table.from_pylist(rows, schema=table.schema)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):
            what = f"{what}, which Arrow does not hold"
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink, **options)
    except pa.ArrowException:  # Arrow's own writer refuses some forms for some types
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    changed = {**files, name: content}
    honest = rng.random() < 0.8
    try:
        told = vouched(changed, claims(content, shards.index(name)) if honest else lambda raw: None)
        changed = recount(told) if honest and "split" in table.column_names else told
    except (pa.ArrowException, OSError):  # written so that pyarrow itself does not read it
        changed = vouched(changed)
    return Case(what if honest else f"{what}; the manifest says otherwise", changed)
