"""JSON from strangers: strict, and small in memory whatever it holds."""

import subprocess
import sys

import pytest
from conftest import ROOT
from pydantic import BaseModel, ConfigDict

from stages.untrusted_json import MOST_BYTES, Malformed, parse_json, parse_model

# Prints the peak memory of the process in MB.
PARSE = """
import re, sys
from pathlib import Path
from stages.errors import CacheError
from stages.logit_cache.manifest import parse_manifest

piece, head, tail = (part.encode() for part in sys.argv[1:4])
most = 8 * 2**20 - len(head) - len(tail)
try:
    parse_manifest(head + (piece * (most // len(piece))).rstrip(b",") + tail, "manifest.json")
except CacheError as error:
    assert len(str(error)) < 1000, len(str(error))
    # Not ru_maxrss: that begins with the memory of the process which started this one.
    print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
HEAD = '{"format": "duet-logit-cache", "format_version": 2, '
MOST_MB = 300


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    x: int


@pytest.mark.parametrize(
    "content",
    [
        b'{"x": 1, "x": 2}',
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b'{"x": 1e999}',
        b'{"x": ' + b"9" * 400 + b"}",
        b'{"x": "\\ud800"}',
        b'{"\\udfff": 1}',
        b"[" * 100_000,
        b"[" * 100_001,
        b"\xff",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"",
    ],
)
def test_what_strict_json_forbids_is_refused_in_a_few_words(content: bytes) -> None:
    with pytest.raises(Malformed, match="not JSON") as error:
        parse_json(content)
    assert len(str(error.value)) < 300


def test_pairs_of_surrogates_and_control_characters_are_text() -> None:
    assert parse_json(b'{"a": "\\ud83d\\ude00", "b": "\\u0000", "c": [1, -2.5, true, null]}') == {
        "a": "\N{GRINNING FACE}",
        "b": "\0",
        "c": [1, -2.5, True, None],
    }


@pytest.mark.parametrize("value", ["true", "1.0", '"1"', "null", "[1]"])
def test_an_integer_is_nothing_else(value: str) -> None:
    with pytest.raises(Malformed, match="malformed at x"):
        parse_model(Point, f'{{"x": {value}}}'.encode())


def test_the_first_fault_alone_is_told_and_its_place_is_cut_short() -> None:
    key = "k" * 10_000
    with pytest.raises(Malformed, match=r"^malformed at k{200}: ") as error:
        parse_model(Point, f'{{"x": 1, "{key}": 2}}'.encode())
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("piece", "head", "tail"),
    [
        ("[],", "[", "]"),
        ("[],", HEAD + '"shards": [', "]}"),
        ("{},", HEAD + '"shards": [', "]}"),
        ("0,", HEAD + '"shards": [', "]}"),
        ("300,", HEAD + '"prefix": {"text": "", "token_ids": [', "]}}"),
        ('"ab",', HEAD + '"prefix": {"text": "", "token_ids": [', "]}}"),
        ('"Ωx",', HEAD + '"provenance": {"command": [', "]}}"),
        ('"😀",', HEAD + '"shards": [', "]}"),
        ("[[", HEAD + '"shards": ', ""),
        ("1e5,", HEAD + '"fingerprint": {"stop_ids": [', "]}}"),
    ],
)
def test_no_manifest_of_the_greatest_size_takes_much_memory(piece: str, head: str, tail: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PARSE, piece, head, tail], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert float(ended.stdout) < MOST_MB


def test_many_keys_are_refused_before_each_is_a_fault() -> None:
    keys = ",".join(f'"{number}":0' for number in range(500_000))
    assert len(keys) < MOST_BYTES
    with pytest.raises(Malformed, match=r"an object of 500,000 keys, at most 64"):
        parse_json(f"{{{keys}}}".encode())
