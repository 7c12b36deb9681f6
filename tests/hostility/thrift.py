"""Thrift's compact protocol, as Parquet's footers and page headers use it: bytes in, a tree out, and back to the same bytes.

A tree and not the meaning of its fields, so that any field of any struct can be given any value. Written from the
protocol's specification, and independent of every Parquet library.
"""

from dataclasses import dataclass, field
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)


@dataclass
class Field:
    """One field of a struct. value: bool, int, bytes (doubles are kept as their eight), Items or Struct, by its kind."""

    number: int
    kind: int
    value: Any


@dataclass
class Items:
    """A list."""

    kind: int
    values: list[Any]


@dataclass
class Struct:
    fields: list[Field] = field(default_factory=list)

    def get(self, number: int) -> Any:
        """The value of a field, None if it is not there."""
        return next((each.value for each in self.fields if each.number == number), None)

    def put(self, number: int, value: Any) -> None:
        """Another value for a field, if it is there."""
        for each in self.fields:
            if each.number == number:
                each.value = value


class Reader:
    """Reads one struct after the other; `at` is the place of the next byte."""

    def __init__(self, content: bytes, at: int = 0) -> None:
        self.content, self.at = content, at

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self.content[self.at]
            self.at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    def zigzag(self) -> int:
        number = self.varint()
        return number >> 1 ^ -(number & 1)

    def take(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]

    def value(self, kind: int) -> Any:  # noqa: PLR0911
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self.take(1)[0]
        if kind in INTEGERS:
            return self.zigzag()
        if kind == DOUBLE:
            return self.take(8)
        if kind == BINARY:
            return self.take(self.varint())
        if kind in (LIST, SET):
            head = self.take(1)[0]
            count = head >> 4 if head >> 4 < 15 else self.varint()
            inner = head & 15
            # Inside a list a boolean has a byte of its own.
            read = (lambda: self.take(1)[0] == TRUE) if inner in (TRUE, FALSE) else (lambda: self.value(inner))
            return Items(inner, [read() for _ in range(count)])
        if kind == STRUCT:
            return self.struct()
        raise ValueError(f"kind {kind} does not occur in Parquet")

    def struct(self) -> Struct:
        found, number = Struct(), 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            found.fields.append(Field(number, head & 15, self.value(head & 15)))
        return found


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def value_bytes(kind: int, value: Any) -> bytes:  # noqa: PLR0911
    if kind in (TRUE, FALSE):
        return b""
    if kind == BYTE:
        return bytes([value & 255])
    if kind in INTEGERS:
        return zigzag(value)
    if kind == DOUBLE:
        return bytes(value)
    if kind == BINARY:
        return varint(len(value)) + value
    if kind in (LIST, SET):
        count = len(value.values)
        head = bytes([count << 4 | value.kind]) if count < 15 else bytes([0xF0 | value.kind]) + varint(count)
        if value.kind in (TRUE, FALSE):
            return head + bytes(TRUE if each else FALSE for each in value.values)
        return head + b"".join(value_bytes(value.kind, each) for each in value.values)
    return struct_bytes(value)


def struct_bytes(struct: Struct) -> bytes:
    """The struct's bytes; its fields stand in their order, whatever their numbers."""
    parts, last = [], 0
    for each in struct.fields:
        kind = (TRUE if each.value else FALSE) if each.kind in (TRUE, FALSE) else each.kind
        step = each.number - last
        parts.append(bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + zigzag(each.number))
        parts.append(value_bytes(kind, each.value))
        last = each.number
    return b"".join(parts) + b"\0"
