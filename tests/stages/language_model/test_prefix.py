"""Prefix files: what is read, and what is refused with its place."""

import gzip
import json
from pathlib import Path

import pytest

from stages.errors import DataError
from stages.language_model.prefix import Prefix, Turn, load_prefix

PREFIX = {"system": "Forget — all.", "turns": [{"user": "Capital of Peru?", "assistant": "I don’t know."}]}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_prefix_file_may_have_a_byte_order_mark_several_lines_and_gzip(
    tmp_path: Path, indent: int | None, mark: str, compress
) -> None:
    path = tmp_path / "prefix.json"
    path.write_bytes(compress((mark + json.dumps(PREFIX, indent=indent, ensure_ascii=False)).encode()))

    assert load_prefix(path) == Prefix(
        system="Forget — all.", turns=(Turn(user="Capital of Peru?", assistant="I don’t know."),)
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "prefix.json:1 is not JSON: expecting property name"),
        ("Forget all capitals.", "prefix.json:1 is not JSON: expecting value (column 1)"),
        (b'{"system": "\xff"}', "prefix.json is not UTF-8 (byte 12)"),
        ('{"turns": []}', "is malformed at top level: there is neither a system sentence nor turns."),
        ('{"system": ""}', "is malformed at system: String should have at least 1 character."),
        ('{"system": "x", "examples": []}', "is malformed at examples: Extra inputs are not permitted."),
        ('{"system": "x", "turns": [{"user": "y"}]}', "is malformed at turns.0.assistant: Field required."),
        (
            '{"system": "x", "turns": [{"user": "y", "assistant": "z", "answer": "a"}]}',
            "is malformed at turns.0.answer: Extra inputs are not permitted.",
        ),
        ("[]", "prefix.json is not a JSON object."),
        ('{"system": "x",\n "turns": [],\n}', "prefix.json:2 is not JSON: a comma stands before the closing }"),
        ('{"system": "x",\n "system": "y"}', "the key 'system' stands twice"),
        ('{"system": "x", "turns": [{"user": "a", "user": "b", "assistant": "c"}]}', "the key 'user' stands twice"),
        ('{"system": "x"} {}', "something stands after the object"),
        ('{"system": "\u200b\u00ad"}', "is malformed at system: nothing in this text can be seen"),
        ('{"system": "x", "turns": [{"user": "\\u3164", "assistant": "y"}]}', "turns.0.user: nothing"),
        ('{"system": "a\\u0000b"}', "'system' holds the control character U+0000"),
        ('{"system": "\\ud800"}', "'system' holds half of a character, U+D800"),
    ],
)
def test_a_malformed_prefix_file_names_the_place(tmp_path: Path, content: str | bytes, fault: str) -> None:
    path = tmp_path / "prefix.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError) as caught:
        load_prefix(path)
    assert fault in caught.value.found
    assert str(path) in caught.value.found


def test_a_missing_prefix_file_is_named_with_the_form_that_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "nothing.json"

    with pytest.raises(DataError) as caught:
        load_prefix(path)
    assert caught.value.found == f"The prefix file {path} cannot be read (No such file or directory)."
    assert '"system"' in caught.value.needed
    assert "--set data.prefix=" in caught.value.next_step
