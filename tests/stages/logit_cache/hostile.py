"""The corpus of hostile caches: each takes a sound copy and makes of it what somebody who means harm would send.

None may be accepted. Tests read each one, `make bench-cache` counts them. The copy is of `conftest.write_cache`: 20 rows in
shards of 8, 8 and 4; most harm is done to the second. Where it says so, the manifest vouches for the altered bytes.
"""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import make_fingerprint, make_row

from stages.logit_cache.fingerprint import sha256_json
from stages.logit_cache.manifest import MANIFEST, SHARDS
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import rows_to_table

SECOND = f"{SHARDS}/shard-00001.parquet"
Harm = Callable[[Path], object]


def read_whole(cache: Path) -> None:
    """What training does before its first step. Raises CacheError unless the cache is sound."""
    LogitCache(cache).check_every_row()


def overwrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def vouch(cache: Path, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> None:
    """Make the manifest agree with the shards' bytes as they now are; change: edits it before its own hashes are renewed."""
    raw = json.loads((cache / MANIFEST).read_bytes())
    for shard in raw["shards"]:
        content = (cache / SHARDS / shard["name"]).read_bytes()
        shard.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    change(raw)
    raw["fingerprint_sha256"] = sha256_json(raw["fingerprint"])
    hashes = [shard["sha256"] for shard in raw["shards"]]
    raw["cache_id"] = sha256_json({"fingerprint": raw["fingerprint_sha256"], "shards": hashes})
    overwrite(cache / MANIFEST, json.dumps(raw).encode())


def manifest(change: Callable[[dict[str, Any]], object], *, rehashed: bool = False) -> Harm:
    """An edited manifest; rehashed: with the hashes over it renewed."""

    def do(cache: Path) -> None:
        if rehashed:
            return vouch(cache, change)
        raw = json.loads((cache / MANIFEST).read_bytes())
        change(raw)
        return overwrite(cache / MANIFEST, json.dumps(raw).encode())

    return do


def manifest_bytes(content: bytes) -> Harm:
    return lambda cache: overwrite(cache / MANIFEST, content)


def sparse_manifest(cache: Path) -> None:
    """1 GiB that takes no room."""
    overwrite(cache / MANIFEST, b"")
    with open(cache / MANIFEST, "r+b") as file:
        file.truncate(2**30)


def linked(name: str) -> Harm:
    """A part of the cache lies elsewhere, with a link in its place."""

    def do(cache: Path) -> None:
        elsewhere = cache.parent / f"{cache.name}-elsewhere"
        (cache / name).rename(elsewhere)
        (cache / name).symlink_to(elsewhere)

    return do


def extra(name: str) -> Harm:
    return lambda cache: (cache / name).write_bytes(b"what is this?")


def shard_bytes(change: Callable[[bytes], bytes], *, vouched: bool = True) -> Harm:
    """The second shard with other bytes."""

    def do(cache: Path) -> None:
        overwrite(cache / SECOND, change((cache / SECOND).read_bytes()))
        if vouched:
            vouch(cache)

    return do


def value(column: str, new: float) -> Harm:
    """One value of the second shard is wrong, and the manifest vouches for it."""

    def do(cache: Path) -> None:
        rows = [make_row(index, make_fingerprint()) for index in range(8, 16)]
        getattr(rows[3], column).reshape(-1)[0] = new
        put_table(cache, rows_to_table(rows, 4))

    return do


def put_table(cache: Path, table: pa.Table, **options: Any) -> None:
    """Another second shard, with the footer of the first, for which the manifest vouches."""
    footer = {key: text for key, text in pq.read_metadata(cache / SECOND).metadata.items() if key.startswith(b"duet.")}
    (cache / SECOND).unlink()
    pq.write_table(table.replace_schema_metadata(footer), cache / SECOND, **options)
    vouch(cache)


def repeated_rows(cache: Path) -> None:
    """The first shard stands in the place of the second, too, and claims to belong there."""
    put_table(cache, pq.read_table(cache / SHARDS / "shard-00000.parquet"))

    def claim(raw: dict[str, Any]) -> None:
        first, second = raw["shards"][:2]
        raw["positions"] += first["positions"] - second["positions"]
        second.update({name: first[name] for name in ("positions", "logit_min", "logit_max", "logit_mean")})

    vouch(cache, claim)


def bomb(cache: Path) -> None:
    """A few kilobytes that unpack to a hundred thousand times as many: rows of 2^25 equal tokens."""
    table = second_table()
    lengths = np.zeros(9, dtype=np.int32)
    lengths[1:] = 2**25
    tokens = pa.ListArray.from_arrays(pa.array(lengths), pa.array(np.zeros(2**25, dtype=np.int32)))
    column = table.schema.get_field_index("student_input_ids")
    field = table.schema.field(column)
    put_table(cache, table.set_column(column, field, tokens.cast(field.type)), compression="zstd")


def text_bomb(cache: Path) -> None:
    """A bomb inside a bomb: 2^19 rows of one text of a megabyte, once in a dictionary, once more packed by zstd."""
    count = 2**19
    row = second_table().slice(0, 1)
    table = row.take(pa.array(np.zeros(count, dtype=np.int32)))
    column = table.schema.get_field_index("query")
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array(["a" * 2**20]))
    table = table.set_column(column, pa.field("query", text.type, nullable=False), text)
    # The footer says, as in a sound shard, that the column is plain text.
    sound = {b"ARROW:schema": pq.read_metadata(cache / SECOND).metadata[b"ARROW:schema"]}
    (cache / SECOND).unlink()
    with pq.ParquetWriter(
        cache / SECOND, table.schema, compression="zstd", store_schema=False, use_dictionary=["query"]
    ) as writer:
        writer.write_table(table, row_group_size=count)
        writer.add_key_value_metadata(sound)

    def claim(raw: dict[str, Any]) -> None:
        raw["shards"][1]["rows"] = count
        raw["shards"][2]["first_row"] = 8 + count
        raw.update(rows=12 + count, splits={"retain": 12 + count})

    vouch(cache, claim)


def endless_rows(in_manifest: bool) -> Harm:
    """The footer claims 2^40 rows where there are eight; in_manifest: so does the manifest."""
    rows = 2**40

    def claim(raw: dict[str, Any]) -> None:
        raw["shards"][1]["rows"] = rows
        raw["shards"][2]["first_row"] = 8 + rows
        raw.update(rows=12 + rows, splits={"retain": 12 + rows})

    def do(cache: Path) -> None:
        content = (cache / SECOND).read_bytes()
        length = int.from_bytes(content[-8:-4], "little")
        data, footer = content[: -8 - length], content[-8 - length : -8]
        # Thrift's compact form: a field of type i64 one after the last, and the zigzag varints of 8 and of 2^40.
        footer = footer.replace(b"\x16\x10", b"\x16" + varint(2 * rows))
        overwrite(cache / SECOND, data + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        assert pq.read_metadata(cache / SECOND).num_rows == rows
        vouch(cache, claim if in_manifest else lambda raw: None)

    return do


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def second_table() -> pa.Table:
    return rows_to_table([make_row(index, make_fingerprint()) for index in range(8, 16)], 4)


def other_type(cache: Path) -> None:
    """Logits in float64."""
    table = second_table()
    at = table.schema.get_field_index("topk_logits")
    kind = pa.list_(pa.list_(pa.float64(), 4))
    put_table(cache, table.set_column(at, pa.field("topk_logits", kind), table["topk_logits"].cast(kind)))


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


def shard_field(**fields: Any) -> Harm:
    return manifest(lambda raw: raw["shards"][1].update(fields), rehashed=True)


def swap(cache: Path) -> None:
    first, second = ((cache / SHARDS / f"shard-0000{index}.parquet").read_bytes() for index in (0, 1))
    overwrite(cache / SHARDS / "shard-00000.parquet", second)
    overwrite(cache / SECOND, first)


def deep(raw: dict[str, Any]) -> None:
    """300 levels below one field."""
    inner: Any = 0
    for _ in range(300):
        inner = {"model": inner}
    raw["provenance"] = inner


CORPUS: dict[str, Harm] = {
    "a manifest of 1 GiB": sparse_manifest,
    "a manifest of a million brackets": manifest_bytes(b"[" * 10**6),
    "a manifest that nests": manifest(deep),
    "a manifest that is a pickle": manifest_bytes(pickle.dumps({"format": "duet-logit-cache"})),
    "an empty manifest": manifest_bytes(b""),
    "a manifest of a newer version": manifest(lambda raw: raw.update(format_version=3)),
    "a manifest of version 1e999": manifest_bytes(b'{"format": "duet-logit-cache", "format_version": 1e999}'),
    "a field that is unknown": manifest(lambda raw: raw.update(run="rm -rf /")),
    "a shard outside the folder": manifest(lambda raw: raw["shards"][1].update(name="../../../etc/passwd")),
    "a shard at an absolute path": manifest(lambda raw: raw["shards"][1].update(name="/etc/passwd")),
    "a shard named twice": shard_field(name="shard-00000.parquet"),
    "rows that are text": manifest(lambda raw: raw.update(rows="many")),
    "a mean that is NaN": manifest(lambda raw: raw["shards"][1].update(logit_mean=float("nan"))),
    "another kind of value": manifest(lambda raw: raw["fingerprint"].update(value_kind="logprobs")),
    "a shard of 2^60 bytes": shard_field(bytes=2**60),
    "2^40 rows in the manifest": shard_field(rows=2**40),
    "2^40 rows in the footer": endless_rows(in_manifest=False),
    "2^40 rows in the footer and in the manifest": endless_rows(in_manifest=True),
    "2^60 rows in a shard of a cache made of it": manifest(lambda raw: raw["provenance"].update(shard_rows=2**60)),
    "K of 2^40": manifest(lambda raw: raw["fingerprint"].update(top_k=2**40), rehashed=True),
    "K of 2^31 - 1": manifest(lambda raw: raw["fingerprint"].update(top_k=2**31 - 1), rehashed=True),
    "a linked manifest": linked(MANIFEST),
    "a linked shard": linked(SECOND),
    "a linked folder": linked(SHARDS),
    "an extra file": extra("run.sh"),
    "an extra shard": extra(f"{SHARDS}/shard-00003.parquet"),
    "a missing shard": lambda cache: (cache / SECOND).unlink(),
    "a shard cut short": shard_bytes(lambda content: content[:-100], vouched=False),
    "a shard cut short, vouched for": shard_bytes(lambda content: content[:-100]),
    "a flipped bit": shard_bytes(flipped, vouched=False),
    "an appended byte": shard_bytes(lambda content: content + b"\0", vouched=False),
    "a shard that is a pickle": shard_bytes(pickle.dumps),
    "an empty shard": shard_bytes(lambda content: b"", vouched=True),
    "shards in each other's place": swap,
    "logits in float64": other_type,
    "NaN": value("topk_logits", float("nan")),
    "infinity": value("topk_logits", float("inf")),
    "a candidate beyond the vocabulary": value("topk_ids", 100),
    "a negative candidate": value("topk_ids", -1),
    "a response beyond the vocabulary": value("response_ids", 2**31 - 1),
    "a negative input": value("student_input_ids", -5),
    "positions from elsewhere": value("student_positions", 99),
    "rows that repeat": repeated_rows,
    "a bomb": bomb,
    "a bomb of text": text_bomb,
}
