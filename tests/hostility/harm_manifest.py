"""Harm to the manifest: each field to each of many bad values, fields gone, twice or new, and what is no manifest at all."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from hostility.bases import Files, rehashed
from hostility.case import Case

from stages.logit_cache.manifest import MANIFEST

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 99, 1.0, 2.5, -0.0, 8.0, 2**31 - 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400,
    float("nan"), float("inf"), float("-inf"), 1e308, 1e30, "", "0", "1", "20", "nan", "x", "\0", "\ud800", "\u202e", "a" * 10**6,
    "../../../etc/passwd", "/etc/passwd", "shard-00000.parquet", "shard-00000.parquet\n", "shard-٠٠٠٠١.parquet",
    "SHARD-00000.PARQUET", "0" * 64, "g" * 64, "A" * 64, [], {}, [[]], [0] * 10_000, {"forget": 1}, {"a": {}},
)  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*way, key)
        yield from places(child, (*way, key))


def parent(raw: Any, way: tuple[Any, ...]) -> Any:
    for key in way[:-1]:
        raw = raw[key]
    return raw


def harm(rng: Random, files: Files) -> Case:
    """One change, sometimes two; half of them with the manifest's hashes renewed."""
    raw = json.loads(files[MANIFEST])
    kind = rng.choice(["value"] * 8 + ["gone", "new", "number", "number", "number", "shards", "twice", "depth", "text"])
    way = rng.choice(list(places(raw)))
    inside, key = parent(raw, way), way[-1]
    what = ".".join(map(str, way))
    match kind:
        case "value":
            inside[key] = rng.choice(VALUES)
            what = f"{what} is {str(inside[key])[:40]!r}"
        case "gone":
            inside.pop(key)
            what = f"{what} is gone"
        case "new":
            rng.choice([raw, raw["fingerprint"], raw["shards"][0], raw["provenance"]])[rng.choice(["x", "", "é"])] = 1
            what = "an unknown field"
        case "number":
            what = numbers(rng, raw)
        case "shards":
            what = shard_list(rng, raw)
        case "depth":
            inner: Any = 0
            for _ in range(rng.choice([10, 300, 2000])):
                inner = [inner] if rng.random() < 0.5 else {"a": inner}
            inside[key] = inner
            what = f"{what} nests"
        case "text":
            return Case("no manifest", {**files, MANIFEST: not_a_manifest(rng, files[MANIFEST])})
    try:
        raw = rehashed(raw) if rng.random() < 0.6 else raw
        text = json.dumps(raw, ensure_ascii=rng.random() < 0.5 or kind == "value")
    except (RecursionError, ValueError):
        text = '{"format":"duet-logit-cache","format_version":2,"rows":' + "[" * 3000 + "]" * 3000 + "}"
    if kind == "twice":
        text, what = doubled(rng, text, str(key)), f"{what} stands twice"
    return Case(what, {**files, MANIFEST: text.encode("utf-8", "surrogatepass")})


def numbers(rng: Random, raw: dict[str, Any]) -> str:  # noqa: PLR0911
    """Numbers that hang together, changed so that the sums still fit, or nearly."""
    shards, some = raw["shards"], rng.choice([1, -1, 5, 2**20, 2**40])
    match rng.randrange(9) if len(shards) > 1 else 7:
        case 0:
            shards[-1]["rows"] += some
            raw["rows"] += some
            raw["splits"]["forget"] += some
            return f"{some} rows more"
        case 1:
            shards[-1]["positions"] += some
            raw["positions"] += some
            return f"{some} positions more"
        case 2:
            raw["splits"]["forget"] += some
            raw["splits"]["retain"] -= some
            return f"{some} rows are of the other split"
        case 3:
            raw["splits"] = {rng.choice(["forget", "retain"]): raw["rows"]}
            return "all rows are of one split"
        case 4:
            name = rng.choice(["logit_min", "logit_max", "logit_mean"])
            rng.choice(shards)[name] += rng.choice([-1.0, 1.0, 1e6])
            return f"{name} is another"
        case 5:
            name = rng.choice(["top_k", "positions", "vocab_size"])
            raw["fingerprint"][name] = max(1, raw["fingerprint"][name] + rng.choice([-1, 1, -2, 50, 2**30]))
            return f"fingerprint.{name} is another"
        case 6:
            shards[0]["rows"] -= 1
            shards[1]["rows"] += 1
            shards[1]["first_row"] -= 1
            return "a row is of the next shard"
        case 7:
            version = rng.choice([99, 0, -1, True, 1, 1.0, 2.0, "2", 3, 10**30])
            rng.choice([raw, raw["fingerprint"]])["format_version"] = version
            return f"a format_version is {version!r}"
        case _:
            raw["format_version"] = 1
            for name in ("student_prompts_sha256", "teacher_prompts_sha256", "stop_ids"):
                raw["fingerprint"].pop(name, None)
            raw["fingerprint"]["format_version"] = rng.choice([1, 1, 2])
            return "format version 1, with hashes of version 2 in the shards"


def shard_list(rng: Random, raw: dict[str, Any]) -> str:
    shards = raw["shards"]
    match rng.randrange(4) if shards else 2:  # an earlier change may have dropped the last one
        case 0:
            dropped = shards.pop(rng.randrange(len(shards)))
            if rng.random() < 0.7:  # and the sums fit
                raw["rows"] -= dropped["rows"]
                raw["positions"] -= dropped["positions"]
                raw["splits"] = {"forget": raw["rows"] // 3, "retain": raw["rows"] - raw["rows"] // 3}
                refit(shards)
            return "a shard is dropped"
        case 1:
            shards.append(dict(rng.choice(shards)))
            refit(shards)
            return "a shard stands twice"
        case 2:
            rng.shuffle(shards)
            refit(shards)
            return "shards in another order"
        case _:
            shards[:] = shards * rng.choice([100, 5_000])
            refit(shards)
            return "a flood of shards"


def refit(shards: list[dict[str, Any]]) -> None:
    first = 0
    for each in shards:
        each["first_row"], first = first, first + each["rows"]


def doubled(rng: Random, text: str, key: str) -> str:
    """A key stands twice, with another value first or last."""
    mark = f'"{key}": '
    if mark not in text:
        key, mark = "rows", '"rows": '
    at = text.index(mark)
    value = rng.choice(["0", '"x"', "null", "99", "[]"])
    return text[:at] + f'"{key}": {value}, ' + text[at:]


def not_a_manifest(rng: Random, content: bytes) -> bytes:
    text = content.decode()
    return rng.choice(
        [
            b"", b"null", b"[]", b"{}", b"NaN", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf" + content, content + b"{}", content[:-3],
            b"[" * 10**5, b'{"a":' * 10**5, b"[[],[]," * 4 * 10**5, b"9" * 10**6, content.replace(b'"rows"', b'"r\xffws"'),
            text.encode("utf-16"), content.replace(b": 2,", b": 2e0,"), content.replace(b": 2,", b": 02,"),
            b'{"format": "duet-logit-cache", "format_version": 2, "shards": [' + b"{}," * 10**6 + b"{}]}",
            b'{"format": "duet-logit-cache", "format_version": 2, "shards": [' + b"[]," * 10**6 + b"[]]}",
            b'{"format": "duet-logit-cache", "format_version": 2, "prefix": {"text": "", "token_ids": ['
            + b"0," * 10**6 + b"null]}}",
            b'{"format": "duet-logit-cache", "format_version": 2, '
            + b",".join(b'"k%d": 0' % index for index in range(200_000)) + b"}",
        ]
    )  # fmt: skip
