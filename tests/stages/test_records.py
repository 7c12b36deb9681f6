"""Files that users write: whatever a reader may come upon, records with their place come out, or one clear message."""

import gzip
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import records
from stages.errors import DataError
from stages.records import FileKind, read_object, read_records, read_text

KIND = FileKind("query file", "JSONL was needed.", "Name another.")
ONE, OTHER = '{"query": "Peru?"}', '{"query": "Ärger in 東京?"}'
BOTH = [(1, "Peru?"), (2, "Ärger in 東京?")]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "queries.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> list[tuple[int, str]]:
    """Line and query of every record."""
    found = list(read_records(path, KIND))
    assert all(where.startswith(f"{path}:") for where, _ in found)
    return [(int(where.rpartition(":")[2]), record["query"]) for where, record in found]


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ONE}\n{OTHER}\n", BOTH),
        (f"{ONE}\n{OTHER}", BOTH),
        (f"{ONE}\r\n{OTHER}\r\n", BOTH),
        (f"{ONE}\r{OTHER}\r", BOTH),
        (f"\n \t\n  {ONE}  \n\n{OTHER}\n", [(3, "Peru?"), (5, "Ärger in 東京?")]),
        (f"{ONE}\n\ufeff{OTHER}\n", BOTH),
        (f"[{ONE}, {OTHER}]", [(1, "Peru?"), (1, "Ärger in 東京?")]),
        (f"[\n{ONE},\n{OTHER}\n]\n", [(2, "Peru?"), (3, "Ärger in 東京?")]),
        ('[\r\n {\r\n  "query": "Peru?"\r\n },\r\n {\r\n  "query": "b"\r\n }\r\n]', [(2, "Peru?"), (5, "b")]),
        ("[]", []),
        ("[\n]\n", []),
        ("", []),
        ('{"query": "one\u2028line"}', [(1, "one\u2028line")]),
        ('{"query": "\\u00c4\\t\\ud83d\\ude00"}', [(1, "Ä\t😀")]),
    ],
)
def test_lines_and_arrays_are_read_with_the_line_of_each_record(
    tmp_path: Path, text: str, expected: list[tuple[int, str]], mark: str, compress: Callable[[bytes], bytes]
) -> None:
    assert read(write(tmp_path, compress((mark + text).encode()))) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # Doubled keys.
        (f'{ONE}\n{{"query": "a", "query": "b"}}', ":2 is not JSON: the key 'query' stands twice in one object."),
        ('{"query": "a", "of": {"x": 1, "x": 1}}', ":1 is not JSON: the key 'x' stands twice"),
        ('{"query": "a", "of": [[{"x": 1, "x": 1}]]}', ":1 is not JSON: the key 'x' stands twice"),
        ('{"query": "a", "qu\\u0065ry": "b"}', ":1 is not JSON: the key 'query' stands twice"),
        (f'[\n{ONE},\n{{"query": "a", "query": "b"}}]', ":3 is not JSON: the key 'query' stands twice"),
        # Commas.
        (
            f"{ONE},\n{OTHER}",
            ":1 is not JSON: a comma stands after the object; in JSONL none stands between two lines.",
        ),
        ('{"query": "a",}', ":1 is not JSON: a comma stands before the closing }."),
        ('{"query": "a", "of": [1, 2, ]}', ":1 is not JSON: a comma stands before the closing ]."),
        (f"[\n{ONE},\n{OTHER},\n]", ":3 is not JSON: a comma stands before the closing ]."),
        ('[\n{"query": "a",\n}\n]', ":2 is not JSON: a comma stands before the closing }."),
        (f"[\n{ONE}\n{OTHER}]", ":3 is not JSON: a comma is missing between two objects."),
        (f"[,{ONE}]", ":1 is not JSON: expecting value (column 2)."),
        # Several objects where one is needed, and one over several lines.
        (f"{ONE} {OTHER}", ":1 is not JSON: two objects stand on one line; each needs a line of its own."),
        (f"{ONE}, {OTHER}", ":1 is not JSON: two objects stand on one line"),
        (f"{ONE} x", ":1 is not JSON: something stands after the object."),
        ('{\n"query": "a"\n}', ":1 is not JSON: it breaks off at the end of the line"),
        ('{"query": "a', ":1 is not JSON: unterminated string"),
        (f"[{ONE}", ":1 is not JSON: the array is never closed with ]."),
        (f"[{ONE},\n", ":1 is not JSON: the array is never closed with ]."),
        (f"[{ONE}]\n[{OTHER}]", ":2 is not JSON: something stands after the array."),
        # No objects.
        (f"{ONE}\n7", ":2 is not a JSON object."),
        ('["query"]', ":1 is not a JSON object."),
        (f"[\n{ONE},\nnull]", ":3 is not a JSON object."),
        ("query,group\nPeru?,x", ":1 is not JSON: expecting value (column 1)."),
        # Numbers.
        ('{"query": NaN}', ":1 is not JSON: it holds NaN, which is no number in JSON."),
        ('{"query": "a", "of": [-Infinity]}', ":1 is not JSON: it holds -Infinity"),
        ('{"query": 1e999}', ":1 is not JSON: the number 1e999 is too large."),
        ('{"query": %s}' % ("9" * 5000), ":1 is not JSON: a number has 5,000 digits."),
        # Characters.
        ('{"query": "a\\ud800"}', ":1 is not JSON: 'query' holds half of a character, U+D800."),
        ('{"query": ["a", "\\udfff"]}', ":1 is not JSON: 'query' holds half of a character, U+DFFF."),
        ('{"query": "a\\u0000"}', ":1 is not JSON: 'query' holds the control character U+0000."),
        ('{"query": "a\x7f"}', ":1 is not JSON: 'query' holds the control character U+007F."),
        ('{"query": "a\x85"}', ":1 is not JSON: 'query' holds the control character U+0085."),
        ('{"query": "a\tb"}', ":1 is not JSON: a text holds a control character as it is"),
        ('{"query": "a\x00b"}', ":1 is not JSON: a text holds a control character as it is"),
        # Nesting.
        ('{"query": ' + "[" * 100_000 + "]" * 100_000 + "}", ":1 is not JSON: it is nested too deeply."),
        ("[" * 100_000, ":1 is not JSON: it is nested too deeply."),
        ('{"query":' * 50_000, ":1 is not JSON: it is nested too deeply."),
    ],
)
def test_what_is_not_one_sound_object_is_refused_with_its_line(tmp_path: Path, text: str, fault: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(DataError) as error:
        read(path)

    assert error.value.found.startswith(f"{path}{fault}")
    assert error.value.needed == KIND.needed
    assert "\n" not in error.value.found
    assert len(error.value.found) < len(str(path)) + 120


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_unicode_encoding_is_named_with_the_command_that_converts_it(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, ONE.encode(encoding))

    with pytest.raises(DataError, match=r"queries\.jsonl is UTF-(16|32)(LE|BE)?, not UTF-8\.") as error:
        read(path)

    assert error.value.next_step.startswith("Convert it:  iconv -f UTF-")
    name = error.value.next_step.split()[4]
    assert path.read_bytes().decode(name).lstrip("\ufeff") == ONE


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (gzip.compress(ONE.encode(), mtime=0)[:-9], "is a damaged gzip file"),
        (gzip.compress(ONE.encode(), mtime=0)[:5], "is a damaged gzip file"),
        (gzip.compress(b"a" * 999, mtime=0)[:-8] + b"12345678", "is a damaged gzip file"),
        (gzip.compress(ONE.encode(), mtime=0) + b"rest", "is a damaged gzip file"),
        (b"\x1f\x8b", "is a damaged gzip file"),
        (gzip.compress(ONE.encode("utf-16"), mtime=0), "is UTF-16, not UTF-8"),
        (b"PK\x03\x04rest", "is zip, not text"),
        (b"\x28\xb5\x2f\xfdrest", "is zstd, not text"),
        ('{"query": "Bogotá?"}'.encode("latin-1"), "is not UTF-8 (byte 16)"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    path = write(tmp_path, content)

    with pytest.raises(DataError) as error:
        read(path)

    assert error.value.found.startswith(f"The query file {path} {fault}")


def test_a_small_file_that_unfolds_to_gigabytes_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 10**6)
    path = write(tmp_path, gzip.compress(b" " * 10**8, compresslevel=1))
    tracemalloc.start()

    with pytest.raises(DataError, match="holds more than 1,000,000 bytes"):
        read_text(path, KIND)

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**7


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 10**6)
    path = write(tmp_path, "")
    os.truncate(path, 2**40)

    with pytest.raises(DataError, match="holds more than"):
        read_text(path, KIND)


def test_what_cannot_be_opened_is_named_with_the_reason(tmp_path: Path) -> None:
    locked = write(tmp_path, ONE)
    locked.chmod(0)
    cases = {
        tmp_path / "none": "No such file or directory",
        tmp_path: "Is a directory",
        Path("a\0b"): "embedded null byte",
    }
    if os.geteuid() != 0:  # root may read everything
        cases[locked] = "Permission denied"
    for path, reason in cases.items():
        with pytest.raises(DataError) as error:
            read(path)
        assert str(error.value).splitlines() == [
            f"The query file {path} cannot be read ({reason}).",
            "  JSONL was needed.",
            "  Name another.",
        ]


def test_a_single_object_may_take_several_lines_and_nothing_may_follow(tmp_path: Path) -> None:
    assert read_object(write(tmp_path, '\ufeff{\n "query":\n "a"\n}\n\n'), KIND) == {"query": "a"}
    for text, fault in {
        '{\n "a": 1,\n}': ":2 is not JSON: a comma stands before the closing }.",
        '{\n "a": 1\n},\n': ":3 is not JSON: a comma stands after the object.",
        '{\n "a": 1\n}\n{}': ":4 is not JSON: something stands after the object.",
        "[]": " is not a JSON object.",
        "": ":1 is not JSON: expecting value (column 1).",
    }.items():
        with pytest.raises(DataError) as error:
            read_object(path := write(tmp_path, text), KIND)
        assert error.value.found == f"{path}{fault}"


def test_every_record_file_of_the_repository_is_read() -> None:
    root = Path(__file__).parents[2] / "data"
    for path in root.rglob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [record for _, record in read_records(path, KIND)] == lines


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")

    for name in ("pipe", "link"):
        with pytest.raises(DataError, match="is no file, but a pipe or a device"):
            read_text(tmp_path / name, KIND)


def test_gzip_within_gzip_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compressed twice"):
        read_text(write(tmp_path, gzip.compress(gzip.compress(ONE.encode()))), KIND)


def test_a_doubled_key_among_very_many_is_found_at_once(tmp_path: Path) -> None:
    keys = ",".join(f'"k{number}":1' for number in range(200_000))

    began = time.perf_counter()
    with pytest.raises(DataError, match="the key 'k199999' stands twice"):
        read(write(tmp_path, f'{{{keys},"k199999":2}}'))
    assert time.perf_counter() - began < 5  # each key compared with all others took minutes


def test_lines_without_anything_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 10**7)
    path = write(tmp_path, "\n \n" * 2**20 + ONE)

    tracemalloc.start()
    assert read(path) == [(2**21 + 1, "Peru?")]
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
