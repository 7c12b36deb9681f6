"""The page on the format is enough: caches read by it alone, without this project's reader."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, make_fingerprint, make_row, write_cache

from stages.logit_cache.manifest import Manifest

PAGE = (ROOT / "docs/cache-format.md").read_text(encoding="utf-8")
SCHEMA = ROOT / "docs/cache-manifest.schema.json"
ROWS = 20


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(tmp_path / "cache", ROWS)
    return tmp_path / "cache"


def manifest_of(cache: Path) -> dict[str, Any]:
    """By the page: sizes, versions, hashes and names are checked before a shard is opened."""
    manifest: dict[str, Any] = json.loads((cache / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["format_version"]) == ("duet-logit-cache", 2)
    assert canonical_sha256(manifest["fingerprint"]) == manifest["fingerprint_sha256"]
    named = {"fingerprint": manifest["fingerprint_sha256"], "shards": [each["sha256"] for each in manifest["shards"]]}
    assert canonical_sha256(named) == manifest["cache_id"]
    for shard in manifest["shards"]:
        assert re.fullmatch(r"shard-[0-9]{5,9}\.parquet", shard["name"])
        content = (cache / "shards" / shard["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    return manifest


def canonical_sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_rows(rows: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    """Everything that the page says of a row; and that these are the rows which were written."""
    fingerprint = make_fingerprint()
    assert len(rows) == manifest["rows"] == ROWS
    assert sum(len(row["response_ids"]) for row in rows) == manifest["positions"]
    for index, row in enumerate(rows):
        written = make_row(index, fingerprint)
        assert row["query"] == written.query
        assert row["topk_logits"] == written.topk_logits.tolist()
        assert row["topk_ids"] == written.topk_ids.tolist()
        text = unicodedata.normalize("NFC", row["query"])
        assert row["example_id"] == hashlib.sha256(text.encode()).hexdigest()[:32]
        first = len(row["student_input_ids"]) - 1
        assert row["student_positions"] == list(range(first, first + len(row["response_ids"])))
        for ids, logits in zip(row["topk_ids"], row["topk_logits"], strict=True):
            assert len(set(ids)) == len(logits) == manifest["fingerprint"]["top_k"]
            assert all(0 <= each < manifest["fingerprint"]["vocab_size"] for each in ids)
            assert logits == sorted(logits, reverse=True)
    assert len({row["example_id"] for row in rows}) == ROWS


def test_polars_alone_reads_a_cache_by_the_page(cache: Path) -> None:
    manifest = manifest_of(cache)
    rows = pl.scan_parquet([cache / "shards" / shard["name"] for shard in manifest["shards"]])

    check_rows(rows.collect().to_dicts(), manifest)


def test_pyarrow_alone_reads_a_cache_by_the_page(cache: Path) -> None:
    manifest = manifest_of(cache)
    rows: list[dict[str, Any]] = []
    for shard in manifest["shards"]:
        with pq.ParquetFile(cache / "shards" / shard["name"]) as file:
            metadata = file.schema_arrow.metadata
            assert metadata[b"duet.fingerprint_sha256"].decode() == manifest["fingerprint_sha256"]
            assert int(metadata[b"duet.first_row"]) == shard["first_row"] == len(rows)
            assert int(metadata[b"duet.rows"]) == shard["rows"]
            rows += file.read().to_pylist()

    check_rows(rows, manifest)


def test_the_example_on_the_page_runs(cache: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("CACHE", str(cache)), names)

    assert names["first_token"].height == ROWS
    assert names["first_token"]["topk_logits"].dtype == pl.Array(pl.Float32, 4)


def test_the_page_names_every_column_and_no_other(cache: Path) -> None:
    table = PAGE.split("| column | Arrow type | content |")[1].split("\n\n")[0]

    columns = pl.read_parquet_schema(cache / "shards/shard-00000.parquet")
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(columns)


def test_the_schema_is_that_of_the_manifest() -> None:
    """Written anew with:  duet cache schema > docs/cache-manifest.schema.json."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == Manifest.model_json_schema()


def test_a_real_manifest_meets_the_schema_and_a_changed_one_does_not(cache: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    raw = json.loads((cache / "manifest.json").read_text(encoding="utf-8"))

    validator.validate(raw)
    for change in (
        {"rows": 0},
        {"shards": []},
        {"cache_id": "short"},
        {"surprise": 1},
        {"shards": [{**raw["shards"][0], "name": "../../etc/passwd"}]},
    ):
        assert not validator.is_valid({**raw, **change}), change
    assert not validator.is_valid({key: value for key, value in raw.items() if key != "prefix"})
