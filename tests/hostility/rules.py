"""The format's rules, by docs/cache-format.md alone: what a cache may hold, in plain Python, value by value.

Shares nothing with the reader but pyarrow's decoding, so that a mistake in one does not hide behind the same in the other.
"""

import hashlib
import json
import math
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostility.bases import Files

HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
SHARD = re.compile(r"shard-[0-9]{5,9}\.parquet", re.ASCII)
LARGEST_LOGIT = 1e4
LISTS = ("student_input_ids", "response_ids", "student_positions")
COLUMNS = ("example_id", "split", "query", *LISTS, "topk_ids", "topk_logits")
HASHES = ("teacher_sha256", "tokenizer_sha256", "template_sha256", "prefix_sha256", "forget_sha256", "retain_sha256")
SINCE_2 = {"student_prompts_sha256": str, "teacher_prompts_sha256": str, "stop_ids": list}
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "manifest": {
        "format": str, "format_version": int, "cache_id": str, "fingerprint": dict, "fingerprint_sha256": str, "prefix": dict,
        "splits": dict, "rows": int, "positions": int, "shards": list, "provenance": dict, "licence": (str, type(None)),
        "sensitivity": (str, type(None)),
    },
    "fingerprint": {
        "format_version": int, "value_kind": str, **dict.fromkeys(HASHES, str), "prefix_on_retain": bool, "top_k": int,
        "positions": int, "dtype": str, "vocab_size": int, **SINCE_2,
    },
    "shard": {
        "name": str, "first_row": int, "rows": int, "positions": int, "bytes": int, "sha256": str,
        **dict.fromkeys(("logit_min", "logit_max", "logit_mean"), (int, float)),
    },
    "prefix": {"text": str, "token_ids": list},
    "provenance": {
        **dict.fromkeys(("model", "engine", "engine_version", "hardware", "started_at", "duet_version"), str),
        "seconds": (int, float), "command": list, "shard_rows": int, "derived_from": list,
    },
}  # fmt: skip
MAY_LACK = {"format", "format_version", "value_kind", "licence", "sensitivity", "derived_from"}


class Broken(Exception):
    """A rule does not hold."""


def need(holds: bool, rule: str) -> None:
    if not holds:
        raise Broken(rule)


@dataclass
class Verdict:
    """rows: those of the cache, if they are as promised. columns: each that is, on its own.

    row_fault: the first rule of a row that is broken; cache_fault: one between rows, or between rows and manifest;
    fine_fault: one at which only `verify` and `pull` need to look.
    """

    rows: list[tuple[Any, ...]] | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)
    row_fault: str | None = None
    cache_fault: str | None = None
    fine_fault: str | None = None

    @property
    def sound(self) -> bool:
        return not (self.row_fault or self.cache_fault or self.fine_fault)


def judge(files: Files) -> Verdict:
    """What the rules say of these files."""
    found = Verdict()
    try:
        raw = manifest_of(files["manifest.json"])
    except Broken as broken:
        found.row_fault = str(broken)
        return found
    try:
        tables = [table_of(files, raw, shard) for shard in raw["shards"]]
        found.columns = {name: [each for table in tables for each in table[name]] for name in COLUMNS}
        found.rows = [canonical(row) for row in zip(*found.columns.values(), strict=True)]
        for number, row in enumerate(zip(*found.columns.values(), strict=True)):
            check_row(dict(zip(COLUMNS, row, strict=True)), raw["fingerprint"], f"row {number}")
    except Broken as broken:
        found.row_fault = str(broken)
        for name in COLUMNS:
            with suppress(Broken):
                shards = [table_of(files, raw, shard, only=name)[name] for shard in raw["shards"]]
                found.columns[name] = [each for values in shards for each in values]
        return found
    for key, check in (("cache_fault", check_whole), ("fine_fault", check_figures)):
        try:
            check(raw, found.columns, tables)
        except Broken as broken:
            setattr(found, key, str(broken))
    return found


def canonical_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        raise Broken("half a character") from None


def manifest_of(content: bytes) -> dict[str, Any]:
    """The manifest, if it keeps every rule of its own."""
    need(len(content) <= 64 * 2**20, "a manifest beyond 64 MiB")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a key twice")
        return dict(pairs)

    def no_constant(name: str) -> None:
        raise Broken(f"{name} in JSON")

    try:
        raw = json.loads(content.decode(), object_pairs_hook=once, parse_constant=no_constant)
        json.dumps(raw, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Broken(f"no JSON: {error}") from None
    fields(raw, "manifest")
    need(raw.get("format", "duet-logit-cache") == "duet-logit-cache", "another format")
    fingerprint = raw["fingerprint"]
    fields(fingerprint, "fingerprint")
    version = fingerprint.get("format_version", 2)
    for each in (raw.get("format_version", 2), version):
        need(1 <= each <= 2, "another format version")
    for name in SINCE_2:
        need((fingerprint.get(name) is not None) == (version == 2), f"{name} in version {version}")
    need(fingerprint.get("value_kind", "raw_logits") == "raw_logits", "another kind of value")
    need(fingerprint["dtype"] in ("float32", "bfloat16", "float16"), "another dtype")
    for name, least in (("top_k", 1), ("positions", 1), ("vocab_size", 2)):
        need(least <= fingerprint[name] < 2**31, f"fingerprint.{name}")
    need(all(type(each) is int for each in fingerprint.get("stop_ids") or ()), "stop_ids")
    fields(raw["prefix"], "prefix")
    need(all(type(each) is int for each in raw["prefix"]["token_ids"]), "token_ids")
    fields(raw["provenance"], "provenance")
    need(raw["provenance"]["shard_rows"] >= 1 and raw["provenance"]["seconds"] >= 0, "provenance")
    texts = (*raw["provenance"]["command"], *raw["provenance"].get("derived_from", ()))
    need(all(isinstance(each, str) for each in texts), "provenance")
    need(set(raw["splits"]) <= {"forget", "retain"}, "another split")
    need(all(type(each) is int and each >= 0 for each in raw["splits"].values()), "rows of a split")
    need(bool(raw["shards"]), "no shards")
    first = 0
    for shard in raw["shards"]:
        need(isinstance(shard, dict), "a shard that is no object")
        fields(shard, "shard")
        need(SHARD.fullmatch(shard["name"]) is not None, "a shard's name")
        need(HEX64.fullmatch(shard["sha256"]) is not None, "a shard's hash")
        need(min(shard["rows"], shard["positions"], shard["bytes"]) >= 1, "an empty shard")
        need(shard["first_row"] == first, "first rows")
        first += shard["rows"]
    need(raw["rows"] == first == sum(raw["splits"].values()), "rows do not add up")
    need(raw["positions"] == sum(each["positions"] for each in raw["shards"]), "positions do not add up")
    need(raw["fingerprint_sha256"] == canonical_json(fingerprint), "the fingerprint's hash")
    hashes = [shard["sha256"] for shard in raw["shards"]]
    need(
        raw["cache_id"] == canonical_json({"fingerprint": raw["fingerprint_sha256"], "shards": hashes}), "the cache id"
    )
    return raw


def fields(value: Any, kind: str) -> None:
    """Exactly the fields of its kind, each of its own JSON type."""
    need(isinstance(value, dict), f"{kind} is no object")
    for name, types in FIELDS[kind].items():
        if name not in value:
            need(name in MAY_LACK or name in SINCE_2, f"{kind} lacks {name}")
            continue
        given = value[name]
        if name in SINCE_2 and given is None:
            continue
        # A boolean is no number, though Python says so.
        right = isinstance(given, types) and (not isinstance(given, bool) or types is bool)
        need(right and not (isinstance(given, float) and not math.isfinite(given)), f"{kind}.{name}")
    need(set(value) <= set(FIELDS[kind]), f"{kind} has an unknown field")


def table_of(files: Files, raw: dict[str, Any], shard: dict[str, Any], only: str | None = None) -> dict[str, list[Any]]:
    """The columns of one shard, or only one, if they have the types and the number of rows that are promised."""
    content = files.get(f"shards/{shard['name']}")
    need(content is not None, "a shard is missing")
    need(len(content) == shard["bytes"] and hashlib.sha256(content).hexdigest() == shard["sha256"], "a shard's bytes")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        chosen = [only] if only else None
        read = [file.read_row_group(index, chosen, use_threads=False) for index in range(file.metadata.num_row_groups)]
        table = pa.concat_tables(read)
        table.validate(full=True)
        schema, metadata = file.schema_arrow, file.metadata
        groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        columns = {name: table[name].to_pylist() for name in table.column_names}
    except Exception as error:  # whatever pyarrow cannot read is no shard
        raise Broken(f"pyarrow cannot read it: {type(error).__name__}") from None
    check_types(schema, raw["fingerprint"]["top_k"])
    need(all(each >= 1 for each in groups) and sum(groups) == shard["rows"], "rows of the row groups")
    need(all(len(each) == shard["rows"] for each in columns.values()), "a column of other rows")
    keys = metadata.metadata or {}
    need(
        keys.get(b"duet.fingerprint_sha256") == raw["fingerprint_sha256"].encode(), "another fingerprint in the footer"
    )
    need(keys.get(b"duet.first_row") == str(shard["first_row"]).encode(), "another first row in the footer")
    need(keys.get(b"duet.rows", str(shard["rows"]).encode()) == str(shard["rows"]).encode(), "other rows in the footer")
    return columns


def check_types(schema: pa.Schema, top_k: int) -> None:
    need(tuple(schema.names) == COLUMNS, "other columns")
    for each in schema:
        need(not each.nullable, f"{each.name} is nullable")
        kind = each.type
        if each.name in ("example_id", "split", "query"):
            need(kind == pa.string(), f"type of {each.name}")
        elif each.name in LISTS:
            need(pa.types.is_list(kind) and kind.value_type == pa.int32(), f"type of {each.name}")
            need(not kind.value_field.nullable, f"elements of {each.name} are nullable")
        else:
            need(pa.types.is_list(kind) and pa.types.is_fixed_size_list(kind.value_type), f"type of {each.name}")
            inner = kind.value_type
            need(inner.list_size == top_k, "another K")
            need(inner.value_type == (pa.int32() if each.name == "topk_ids" else pa.float32()), f"type of {each.name}")
            need(not (kind.value_field.nullable or inner.value_field.nullable), f"elements of {each.name} are nullable")


def check_row(row: dict[str, Any], fingerprint: dict[str, Any], where: str) -> None:
    """What holds in every row."""
    vocabulary, top_k, count = fingerprint["vocab_size"], fingerprint["top_k"], len(row["response_ids"])
    need(None not in row.values(), f"{where}: null")
    need(re.fullmatch("[0-9a-f]{32}", row["example_id"], re.ASCII) is not None, f"{where}: example_id")
    need(row["split"] in ("forget", "retain"), f"{where}: split")
    need(len(row["student_input_ids"]) >= 1, f"{where}: no input")
    need(1 <= count <= fingerprint["positions"], f"{where}: positions")
    start = len(row["student_input_ids"]) - 1
    need(row["student_positions"] == [start + t for t in range(count)], f"{where}: student_positions")
    need(len(row["topk_ids"]) == len(row["topk_logits"]) == count, f"{where}: lists of different lengths")
    ids = [*row["student_input_ids"], *row["response_ids"], *(each for one in row["topk_ids"] for each in one)]
    need(all(0 <= each < vocabulary for each in ids), f"{where}: an id outside the vocabulary")
    for said, candidates, values in zip(row["response_ids"], row["topk_ids"], row["topk_logits"], strict=True):
        need(len(candidates) == len(values) == top_k == len(set(candidates)), f"{where}: candidates")
        need(all(math.isfinite(each) and abs(each) <= LARGEST_LOGIT for each in values), f"{where}: a logit")
        for k in range(top_k - 1):
            order = values[k] > values[k + 1] or (values[k] == values[k + 1] and candidates[k] < candidates[k + 1])
            need(order, f"{where}: order")
        greatest = {token for token, value in zip(candidates, values, strict=True) if value == values[0]}
        need(said in greatest or len(greatest) == top_k, f"{where}: a response that is not greedy")


def check_whole(raw: dict[str, Any], columns: dict[str, list[Any]], tables: list[dict[str, list[Any]]]) -> None:
    """What holds between rows, and between rows and manifest."""
    need(len(set(columns["example_id"])) == len(columns["example_id"]), "an example twice")
    for example, query in zip(columns["example_id"], columns["query"], strict=True):
        own = hashlib.sha256(unicodedata.normalize("NFC", query).encode()).hexdigest()[:32]
        need(not query or example == own, "an example_id that is not of its query")
    for split in ("forget", "retain"):
        need(columns["split"].count(split) == raw["splits"].get(split, 0), "rows of a split")
    for shard, table in zip(raw["shards"], tables, strict=True):
        need(sum(map(len, table["response_ids"])) == shard["positions"], "a shard's positions")


def check_figures(raw: dict[str, Any], columns: dict[str, list[Any]], tables: list[dict[str, list[Any]]]) -> None:
    """The manifest's figures and hashes over all rows."""
    for shard, table in zip(raw["shards"], tables, strict=True):
        values = [each for row in table["topk_logits"] for position in row for each in position]
        need(min(values) == shard["logit_min"] and max(values) == shard["logit_max"], "a shard's extremes")
        # A whole number may be larger than any float: it is compared before it is subtracted.
        said = shard["logit_mean"]
        need(abs(said) < 1e9 and abs(math.fsum(values) / len(values) - said) < 1e-4, "a shard's mean")
    promised = raw["fingerprint"].get("student_prompts_sha256")
    need(not promised or promised == prompts_sha256(columns["student_input_ids"]), "other student prompts")
    if all(columns["query"]) and not raw["provenance"].get("derived_from"):
        for split in ("forget", "retain"):
            queries = [query for query, own in zip(columns["query"], columns["split"], strict=True) if own == split]
            need(raw["fingerprint"][f"{split}_sha256"] == canonical_json(queries), f"other {split} queries")


def prompts_sha256(prompts: list[list[int]]) -> str:
    digest = hashlib.sha256()
    for ids in prompts:
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(np.array(ids, dtype="<i4").tobytes())
    return digest.hexdigest()


def canonical(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row to compare with `==`, its logits to the bit. row: the values of COLUMNS as Python lists."""
    try:
        *first, ids, values = row
        rounded = [np.array(each, dtype=np.float32).tobytes() for each in values]
        return (
            *(tuple(each) if isinstance(each, list) else each for each in first),
            tuple(map(tuple, ids)),
            tuple(rounded),
        )
    except (TypeError, ValueError):
        raise Broken("values of another form") from None
