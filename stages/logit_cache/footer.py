"""A shard's Parquet footer in, what its column chunks claim to hold out, before Arrow acts on any of it.

Arrow ends the whole process over some footers (levels in the size statistics that do not fit the column), as soon as it is
asked about a chunk, and no exception can be caught. So the few numbers that must be known first are read here. Written
from the specification of Thrift's compact protocol; every count is bounded by the bytes that are there.
"""

import io
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from stages.errors import CacheError

MAGIC = b"PAR1"
# A row group takes 2 to 3 kB and a few hundred values in the footer: room for thousands, and little to be held in memory.
LARGEST_FOOTER_BYTES, MOST_VALUES = 2**24, 2**21
# Of structs and lists in each other; Parquet's own metadata has 8.
MOST_LEVELS = 16
TRUE, FALSE = 1, 2
# Fields by their numbers in parquet.thrift.
ROW_GROUPS, COLUMNS, GROUP_ROWS, CHUNK_FILE, CHUNK_METADATA = 4, 1, 3, 1, 3
KIND, ENCODINGS, PATH, VALUES, UNPACKED_BYTES, PACKED_BYTES, DATA_PAGE, DICTIONARY_PAGE = 1, 2, 3, 5, 6, 7, 9, 11
BYTE_ARRAY = 6

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Chunk:
    """What the footer says of one column in one row group. encodings: Parquet's numbers."""

    column: str
    is_text: bool
    encodings: frozenset[int]
    values: int
    unpacked_bytes: int
    packed_bytes: int
    start: int  # byte of the file at which its first page begins


@dataclass(frozen=True)
class RowGroup:
    rows: int
    chunks: tuple[Chunk, ...]


def read_footer(file: io.RawIOBase | BinaryIO, where: str) -> list[RowGroup]:
    """The row groups that the footer names. file: open for reading; where: names it in errors. Raises CacheError."""
    try:
        size = file.seek(0, 2)
        file.seek(max(size - 8, 0))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or not 0 < length <= min(size - 12, LARGEST_FOOTER_BYTES):
            raise ValueError("it does not end as a Parquet file does")
        file.seek(size - 8 - length)
        return [_row_group(each) for each in _all_of(dict, _Thrift(file.read(length)).struct()[ROW_GROUPS])]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CacheError(
            f"{where} is not a Parquet file: its footer is damaged ({error or type(error).__name__}).",
            "A footer says what to read and where, so nothing was read.",
        ) from error


def _row_group(fields: dict[int, Any]) -> RowGroup:
    return RowGroup(_count(fields[GROUP_ROWS]), tuple(_chunk(each) for each in _all_of(dict, fields[COLUMNS])))


def _chunk(fields: dict[int, Any]) -> Chunk:
    if CHUNK_FILE in fields:
        raise ValueError("a column is said to lie in another file")
    (metadata,) = _all_of(dict, [fields[CHUNK_METADATA]])
    return Chunk(
        column=_all_of(bytes, metadata[PATH])[0].decode(),
        is_text=metadata[KIND] == BYTE_ARRAY,
        encodings=frozenset(map(_count, metadata[ENCODINGS])),
        values=_count(metadata[VALUES]),
        unpacked_bytes=_count(metadata[UNPACKED_BYTES]),
        packed_bytes=_count(metadata[PACKED_BYTES]),
        start=min(_count(metadata[DATA_PAGE]), _count(metadata.get(DICTIONARY_PAGE) or metadata[DATA_PAGE])),
    )


def _all_of(kind: type[_Kind], values: Any) -> list[_Kind]:
    """The list as it stands. Whoever wrote the footer chose each field's type, too."""
    if type(values) is not list or not all(type(each) is kind for each in values):
        raise ValueError(f"where a list of {kind.__name__} was needed stands something else")
    return values


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a count is {value!r}")
    return value


class _Thrift:
    """Thrift's compact protocol: structs as {number: value}, lists as lists. Raises ValueError where it ends too early."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at, self._values = content, 0, 0

    def struct(self, level: int = 0) -> dict[int, Any]:
        if level > MOST_LEVELS:
            raise ValueError("it nests too deeply")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if number in found:
                raise ValueError(f"field {number} stands twice in one struct")
            found[number] = self._value(head & 15, level)
        return found

    def _value(self, kind: int, level: int) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise ValueError("it holds more values than a footer needs")
        match kind:
            case 1 | 2:  # a boolean, in the kind itself
                found: Any = kind == TRUE
            case 3:
                found = self._byte()
            case 4 | 5 | 6:
                found = self._zigzag()
            case 7:  # a double
                found = self._take(8)
            case 8:
                found = self._take(self._varint())
            case 9 | 10:  # a list, a set
                found = self._list(level + 1)
            case 12:
                found = self.struct(level + 1)
            case _:
                raise ValueError(f"a value of kind {kind}")
        return found

    def _list(self, level: int) -> list[Any]:
        if level > MOST_LEVELS:
            raise ValueError("it nests too deeply")
        head = self._byte()
        kind, count = head & 15, head >> 4
        if count == 15:
            count = self._varint()
        if count > len(self._content) - self._at:
            raise ValueError("a list is longer than the footer")
        if kind in (TRUE, FALSE):  # in a list each has a byte of its own
            return [each == TRUE for each in self._take(count)]
        return [self._value(kind, level) for _ in range(count)]

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a number has more than 64 bits")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._content):
            raise ValueError("it ends too early")
        return self._content[start : self._at]
