"""Files that a user wrote: text or gzip in; (where, object) out, where being `path:line` for messages.

One reader for all of them: JSON Lines, a JSON array of objects, a single JSON object, and the text of a settings file.
Strict where a lenient parser would guess: nothing is dropped, and of two values for one key none wins.
"""

import gzip
import json
import math
import os
import re
import shlex
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

from stages.errors import DataError, DuetError
from stages.settings import Absent
from stages.texts import unfit_character

# Of the file as it lies there, and of what a compressed one unfolds to: far more than anybody writes queries.
MOST_BYTES = 2**28
MOST_FIELDS = 1000  # of one object; people write a dozen
DIGITS = 4000
GZIP = b"\x1f\x8b"
ARCHIVES = {b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "Parquet"}
# The longer marks first: UTF-32's begins as UTF-16's does.
MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# Without a mark, by where the zero bytes of the first characters are.
ZEROS = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
BLANK = re.compile("[ \t\n\ufeff]*")
NOT_BLANK = re.compile("[^ \t\n\ufeff][^\n]*")


@dataclass(frozen=True)
class FileKind:
    """What messages say about one kind of file: its name, what it must hold, where it is named; and their error."""

    name: str
    needed: str
    next_step: str = ""
    error: type[DuetError] = DataError


class _Fault(ValueError):
    """What is wrong with a JSON text, in plain words, and at which character if that is known."""

    def __init__(self, words: str, place: int | None = None) -> None:
        super().__init__(words, place)
        self.words, self.place = words, place


def read_text(path: Path, kind: FileKind) -> str:
    """The text of a UTF-8 file, gzipped or not, without a byte order mark and with LF line ends.

    Raises the kind's error for a file that cannot be read, is too large, damaged, or in another encoding.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise kind.error(
                f"The {kind.name} {path} is no file, but a pipe or a device.",
                kind.needed,
                "It is read more than once, and a pipe could be read only once: save it to a file.",
            )
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        next_step = f"{path.looked_for}\n  {kind.next_step}" if isinstance(path, Absent) else kind.next_step
        raise kind.error(f"The {kind.name} {path} cannot be read ({reason}).", kind.needed, next_step) from error
    if raw.startswith(GZIP):
        raw = _unfolded(raw, path, kind)
    if len(raw) > MOST_BYTES:
        raise kind.error(f"The {kind.name} {path} holds more than {MOST_BYTES:,} bytes.", kind.needed, "Divide it.")
    if raw.startswith(GZIP):
        raise kind.error(f"The {kind.name} {path} is compressed twice with gzip.", kind.needed, "Unpack it once.")
    for mark, archive in ARCHIVES.items():
        if raw.startswith(mark):
            raise kind.error(
                f"The {kind.name} {path} is {archive}, not text.", kind.needed, "Unpack it, or compress it with gzip."
            )
    if encoding := _other_encoding(raw):
        quoted = shlex.quote(os.fspath(path))
        raise kind.error(
            f"The {kind.name} {path} is {encoding}, not UTF-8.",
            kind.needed,
            f"Convert it:  iconv -f {encoding} -t UTF-8 {quoted} > {quoted}.utf8",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind.error(
            f"The {kind.name} {path} is not UTF-8 (byte {error.start}).",
            kind.needed,
            "Save it as UTF-8; iconv converts from the encoding that it has.",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_records(path: Path, kind: FileKind) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a JSONL file, or of a JSON array, with its `path:line`; blank lines are passed over.

    Raises the kind's error as `read_text` does, and for the first line that is not exactly one sound object.
    """
    text = read_text(path, kind)
    array = text[BLANK.match(text).end() :].startswith("[")  # type: ignore[union-attr]
    for line, value in _elements(text, path, kind) if array else _lines(text, path, kind):
        yield f"{path}:{line}", _object_of(value, f"{path}:{line}", kind)


def read_object(path: Path, kind: FileKind) -> dict[str, Any]:
    """The one object of a JSON file. Raises the kind's error as `read_records` does."""
    text = read_text(path, kind)
    start = BLANK.match(text).end()  # type: ignore[union-attr]
    try:
        value, end = _value(text, start)
        if (rest := BLANK.match(text, end).end()) < len(text):  # type: ignore[union-attr]
            words = "a comma stands after the object" if text[rest] == "," else "something stands after the object"
            raise _Fault(words, rest)
    except _Fault as fault:
        raise _not_json(path, text, fault, start, kind) from fault
    return _object_of(value, str(path), kind)


def _lines(text: str, path: Path, kind: FileKind) -> Iterator[tuple[int, Any]]:
    """By line, the value on it."""
    number, counted = 1, 0
    # By what stands in them: a file of empty lines alone has a quarter of a billion.
    for found in NOT_BLANK.finditer(text):
        number, counted = number + text.count("\n", counted, found.start()), found.start()
        line = found[0].rstrip(" \t\ufeff")
        try:
            value, end = _value(line, 0)
            if rest := line[end:].strip(" \t"):
                raise _Fault(_words_for_rest(rest))
        except _Fault as fault:
            words = fault.words
            if fault.place is not None and fault.place >= len(line):
                words = "it breaks off at the end of the line, and each object needs one line, whole"
            raise kind.error(f"{path}:{number} is not JSON: {words}.", kind.needed) from fault
        yield number, value


def _words_for_rest(rest: str) -> str:
    if rest == ",":
        return "a comma stands after the object; in JSONL none stands between two lines"
    if rest.lstrip(", ").startswith("{"):
        return "two objects stand on one line; each needs a line of its own"
    return "something stands after the object"


def _elements(text: str, path: Path, kind: FileKind) -> Iterator[tuple[int, Any]]:
    """The values of one JSON array, each with the line on which it begins."""

    def skipped(place: int) -> int:
        return BLANK.match(text, place).end()  # type: ignore[union-attr]

    begin = place = skipped(skipped(0) + 1)
    line, counted = 1, 0
    try:
        while text[place : place + 1] != "]":
            begin = place
            if place >= len(text):
                raise _Fault("the array is never closed with ]", place)
            value, end = _value(text, begin)
            line, counted = line + text.count("\n", counted, begin), begin
            yield line, value
            place = skipped(end)
            if text[place : place + 1] == ",":
                comma, place = place, skipped(place + 1)
                if text[place : place + 1] == "]":
                    raise _Fault("a comma stands before the closing ]", comma)
            elif text[place : place + 1] != "]":
                missing = (
                    "a comma is missing between two objects"
                    if place < len(text)
                    else "the array is never closed with ]"
                )
                raise _Fault(missing, place)
        if (rest := skipped(place + 1)) < len(text):
            raise _Fault("something stands after the array", rest)
    except _Fault as fault:
        raise _not_json(path, text, fault, begin, kind) from fault


def _not_json(path: Path, text: str, fault: _Fault, begin: int, kind: FileKind) -> DuetError:
    place = begin if fault.place is None else fault.place
    line = 1 + text.count("\n", 0, min(place, len(text.rstrip())))
    return kind.error(f"{path}:{line} is not JSON: {fault.words}.", kind.needed)


def _object_of(value: Any, where: str, kind: FileKind) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise kind.error(f"{where} is not a JSON object.", kind.needed)
    if len(value) > MOST_FIELDS:
        raise kind.error(f"{where} has {len(value):,} fields, at most {MOST_FIELDS:,} are read.", kind.needed)
    return value


def _value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at a character, and the character after it. Raises _Fault."""
    try:
        return DECODER.raw_decode(text, start)
    except RecursionError as error:
        raise _Fault("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        # Python 3.13 points at the comma, earlier versions behind it.
        before = text[: error.pos + 1].rstrip("}] \t\n")
        if before.endswith(",") and text[len(before) :].lstrip()[:1] in ("}", "]"):
            closing = text[len(before) :].lstrip()[0]
            raise _Fault(f"a comma stands before the closing {closing}", len(before) - 1) from error
        if error.msg.startswith("Invalid control character"):
            raise _Fault("a text holds a control character as it is; JSON writes a tab as \\t", error.pos) from error
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise _Fault(f"{error.msg[0].lower()}{error.msg[1:]} (column {column})", error.pos) from error


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Fault(f"the key {twice!r} stands twice in one object")
    for key, value in pairs:
        for text in (key, *_texts(value)):
            if unfit := unfit_character(text):
                raise _Fault(f"{key!r} holds {unfit}")
    return found


def _texts(value: Any) -> Iterator[str]:
    """The strings of a value, but for those in objects, which are checked themselves."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _integer(digits: str) -> int:
    if len(digits) > DIGITS:
        raise _Fault(f"a number has {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise _Fault(f"the number {digits[:20]} is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise _Fault(f"it holds {name}, which is no number in JSON")


DECODER = json.JSONDecoder(
    object_pairs_hook=_checked, parse_int=_integer, parse_float=_number, parse_constant=_constant
)


def _unfolded(raw: bytes, path: Path, kind: FileKind) -> bytes:
    """What a gzip file holds, and never more than a byte too much of it: a small file may unfold to terabytes."""
    try:
        with gzip.GzipFile(fileobj=BytesIO(raw)) as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise kind.error(
            f"The {kind.name} {path} is a damaged gzip file ({error}).", kind.needed, "Compress or copy it again."
        ) from error


def _other_encoding(raw: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark or by its zero bytes; None if it is neither."""
    for mark, name in MARKS.items():
        if raw.startswith(mark):
            return name
    return ZEROS.get(tuple(byte == 0 for byte in raw[:4]))  # type: ignore[arg-type]
