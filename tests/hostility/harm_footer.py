"""Harm to single fields of a shard's footer and page headers, through the Thrift tree, with everything around it intact."""

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hostility.bases import Files, shard_names, vouched
from hostility.case import Case
from hostility.shard_file import (
    COLUMNS,
    GROUP_ROWS,
    ROW_GROUPS,
    join_footer,
    metadata_of,
    put_together,
    split_footer,
    take_apart,
)
from hostility.thrift import BINARY, DOUBLE, FALSE, I32, I64, INTEGERS, LIST, STRUCT, TRUE, Field, Items, Struct

INTEGER_VALUES = (0, 1, -1, 2, 3, 7, 8, 2**7, 2**15, 2**24, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
TEXTS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"topk_ids",
    b"../../etc/passwd",
    b"/etc/passwd",
    b"element",
    b"x" * 5000,
)
SCHEMA, VALUES, STATISTICS, SORTING, FILE_PATH, CODEC, ENCODINGS = 2, 5, 12, 4, 1, 4, 2


def structs(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Struct]]:
    """Every struct below a value, with the way to it."""
    if isinstance(value, Struct):
        yield way, value
        for each in value.fields:
            yield from structs(each.value, (*way, each.number))
    elif isinstance(value, Items):
        for index, each in enumerate(value.values):
            yield from structs(each, (*way, index))


def other_value(rng: Random, kind: int, value: Any, footer: Struct) -> Any:
    """Another value of the same kind."""
    if kind in (TRUE, FALSE):
        return not value
    if kind in INTEGERS:
        near = (value + 1, value - 1, 2 * value, -value)
        elsewhere = [each.value for _, struct in structs(footer) for each in struct.fields if each.kind in INTEGERS]
        return rng.choice([rng.choice(near), rng.choice(INTEGER_VALUES), rng.choice(elsewhere)])
    if kind == BINARY:
        flipped = bytes([*value[:-1], value[-1] ^ 1]) if value else b"x"
        return rng.choice([rng.choice(TEXTS), flipped, value * 2, value[:-1]])
    if kind == DOUBLE:
        return rng.randbytes(8)
    if kind == LIST:
        return other_list(rng, value)
    return Struct(value.fields[: rng.randrange(len(value.fields) + 1)])


def other_list(rng: Random, items: Items) -> Items:
    values = list(items.values)
    at = rng.randrange(len(values)) if values else 0
    match rng.randrange(7):
        case 0:
            values = values[:at] + values[at + 1 :]
        case 1 if values:
            values.insert(at, copy.deepcopy(values[at]))
        case 2:
            rng.shuffle(values)
        case 3:
            values = []
        case 4:
            values = values * rng.choice([2, 100])
        case 5:
            values.append(copy.deepcopy(rng.choice(values)) if values else (0 if items.kind in INTEGERS else b""))
            if items.kind not in (STRUCT, BINARY, *INTEGERS):
                values.pop()
        case _:
            if values and items.kind in INTEGERS:
                values[at] = rng.choice(INTEGER_VALUES)
            elif values and items.kind == BINARY:
                values[at] = rng.choice(TEXTS)
            else:
                values.reverse()
    return Items(items.kind, values)


def any_field(rng: Random, footer: Struct) -> str:
    """One field somewhere: another value, none, twice, under another number, or of another kind."""
    way, struct = rng.choice([each for each in structs(footer) if each[1].fields])
    each = rng.choice(struct.fields)
    place = ".".join(map(str, (*way, each.number)))
    match rng.choice(["value"] * 6 + ["dropped", "doubled", "renumbered", "other kind"]):
        case "value":
            each.value = other_value(rng, each.kind, each.value, footer)
            return f"field {place} is another"
        case "dropped":
            struct.fields.remove(each)
            return f"field {place} is dropped"
        case "doubled":
            twin = Field(each.number, each.kind, other_value(rng, each.kind, each.value, footer))
            struct.fields.append(twin)
            return f"field {place} is doubled"
        case "renumbered":
            each.number = rng.randrange(1, 20)
            return f"field {place} is renumbered"
        case _:
            each.kind, each.value = rng.choice([(I32, 1), (I64, 2**40), (BINARY, b"x"), (STRUCT, Struct())])
            return f"field {place} is of another kind"


def chunk_number(rng: Random, footer: Struct) -> str:
    """A count, size, offset, codec or type of one or of all chunks of a column."""
    number = rng.choice([1, VALUES, VALUES, VALUES, CODEC, 6, 7, 9, 11])
    chunks = list(metadata_of(footer).values())
    value = rng.choice([*INTEGER_VALUES, (chunks[0].get(number) or 0) + rng.choice([-1, 1])])
    for chunk in rng.choice([chunks, [rng.choice(chunks)]]):
        chunk.put(number, value)
    return f"chunk field {number} is {value}"


def chunk_list(rng: Random, footer: Struct) -> str:
    """Chunks of a row group dropped, doubled or in another order."""
    group = rng.choice(footer.get(ROW_GROUPS).values)
    group.put(COLUMNS, other_list(rng, group.get(COLUMNS)))
    return "column chunks are others"


def group_list(rng: Random, footer: Struct) -> str:
    """Row groups dropped, doubled or in another order; the footer's count fits or does not."""
    footer.put(ROW_GROUPS, other_list(rng, footer.get(ROW_GROUPS)))
    if rng.random() < 0.5:
        footer.put(3, sum(each.get(GROUP_ROWS) or 0 for each in footer.get(ROW_GROUPS).values))
    return "row groups are others"


def row_counts(rng: Random, footer: Struct) -> str:
    """Rows of a group, and of the file with it."""
    group = rng.choice(footer.get(ROW_GROUPS).values)
    before = group.get(GROUP_ROWS)
    after = rng.choice([*INTEGER_VALUES, before - 1, before + 1])
    group.put(GROUP_ROWS, after)
    if rng.random() < 0.5:
        footer.put(3, footer.get(3) - before + after)
    if rng.random() < 0.5:
        for metadata in metadata_of(footer).values():
            metadata.put(VALUES, after)
    return f"a row group of {after} rows"


def schema_element(rng: Random, footer: Struct) -> str:
    """A column renamed, of another type, nested deeper, dropped, or one more."""
    schema: Items = footer.get(SCHEMA)
    at = rng.randrange(len(schema.values))
    element = schema.values[at]
    match rng.randrange(7):
        case 0:
            element.put(4, rng.choice(TEXTS))
        case 1:
            element.put(1, rng.randrange(-1, 9))  # physical type
        case 2:
            element.put(3, rng.randrange(4))  # repetition
        case 3:
            element.put(5, rng.choice([0, 1, 2, 9, 2**31 - 1, -1]))  # number of children
        case 4:
            schema.values.pop(at)
        case 5:
            schema.values.insert(at, copy.deepcopy(element))
        case _:
            # A tower of groups over one column.
            tower = Struct([Field(3, I32, 0), Field(4, BINARY, b"g"), Field(5, I32, 1)])
            schema.values[at:at] = [copy.deepcopy(tower) for _ in range(rng.choice([1, 50, 5000]))]
    return f"schema element {at} is another"


def key_value(rng: Random, footer: Struct) -> str:
    """An entry of the key-value metadata: ours, Arrow's schema, or a flood."""
    entries: Items = footer.get(5)
    each = rng.choice(entries.values)
    match rng.randrange(5):
        case 0:
            each.put(2, rng.choice([*TEXTS, b"0", b"-1", b"5", b"9" * 400]))
        case 1:
            each.put(1, rng.choice(TEXTS))
        case 2:
            entries.values.remove(each)
        case 3:
            entries.values.extend(copy.deepcopy(each) for _ in range(rng.choice([1, 10_000])))
        case _:
            entries.values.append(Struct([Field(1, BINARY, b"pandas"), Field(2, BINARY, b'{"index_columns": [')]))
    return "key-value metadata are others"


def additions(rng: Random, footer: Struct) -> str:
    """Statistics that lie, sorting that is claimed, another file's path."""
    metadata = rng.choice(list(metadata_of(footer).values()))
    match rng.randrange(4):
        case 0:
            lie = [Field(n, BINARY, rng.randbytes(4)) for n in (1, 2, 5, 6)] + [Field(3, I64, 10**9)]
            metadata.fields.append(Field(STATISTICS, STRUCT, Struct(lie)))
            return "statistics that lie"
        case 1:
            sorting = Struct([Field(1, I32, rng.choice([0, 7, -1, 99])), Field(2, TRUE, True), Field(3, TRUE, True)])
            for group in footer.get(ROW_GROUPS).values:
                group.fields.append(Field(SORTING, LIST, Items(STRUCT, [sorting])))
                group.fields.sort(key=lambda each: each.number)
            return "sorting columns"
        case 2:
            chunk = rng.choice(rng.choice(footer.get(ROW_GROUPS).values).get(COLUMNS).values)
            chunk.fields.insert(0, Field(FILE_PATH, BINARY, rng.choice(TEXTS)))
            return "a chunk in another file"
        case _:
            metadata.put(ENCODINGS, Items(I32, [rng.choice([0, 2, 3, 4, 5, 6, 8, 9, 99]) for _ in range(3)]))
            return "other encodings are claimed"


def harmless(rng: Random, footer: Struct) -> str:
    """What no reader has to look at."""
    footer.fields = [each for each in footer.fields if each.number != 6]
    if rng.random() < 0.5:
        footer.fields.append(Field(6, BINARY, b"another writer"))
        footer.fields.sort(key=lambda each: each.number)
    return "created_by is another"


FOOTER_KINDS: tuple[Callable[[Random, Struct], str], ...] = (
    any_field, any_field, any_field, chunk_number, chunk_number, chunk_list, group_list, row_counts, schema_element,
    key_value, additions, harmless,
)  # fmt: skip


def harm(rng: Random, files: Files) -> Case:
    """One or two fields of one shard's footer."""
    name = rng.choice(shard_names(files))
    data, footer = split_footer(files[name])
    done = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        try:
            done.append(rng.choice(FOOTER_KINDS)(rng, footer))
        except (AttributeError, IndexError, TypeError, ValueError):
            continue  # the first change took away what the second was to change
    return Case("; ".join(done), vouched({**files, name: join_footer(data, footer)}))


def harm_pages(rng: Random, files: Files) -> Case:
    """A page of one chunk: its header, its body, gone, twice, in another's place; sizes and offsets fit."""
    name = rng.choice(shard_names(files))
    shard = take_apart(files[name])
    place = rng.choice(list(shard.chunks))
    pages = shard.chunks[place]
    at = rng.randrange(len(pages))
    match rng.randrange(8):
        case 0:
            done, _ = "a page is gone", pages.pop(at)
        case 1:
            done = "a page stands twice"
            pages.insert(at, copy.deepcopy(pages[at]))
            if rng.random() < 0.5:
                metadata = metadata_of(shard.footer)[place]
                metadata.put(VALUES, 2 * metadata.get(VALUES))
        case 2:
            done = "chunks change places"
            other = rng.choice(list(shard.chunks))
            shard.chunks[place], shard.chunks[other] = shard.chunks[other], shard.chunks[place]
        case 3:
            body = bytearray(pages[at].body or b"\0")
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            done, pages[at].body = "a bit of a page is flipped", bytes(body)
        case 4:
            done, pages[at].body = "a page is cut short", pages[at].body[:-1]
            if rng.random() < 0.7:
                pages[at].header.put(3, len(pages[at].body))
        case _:
            _, struct = rng.choice([each for each in structs(pages[at].header) if each[1].fields])
            each = rng.choice(struct.fields)
            each.value = other_value(rng, each.kind, each.value, shard.footer)
            done = f"field {each.number} of a page header is {each.value if each.kind != STRUCT else 'cut'}"
    return Case(done, vouched({**files, name: put_together(shard)}))
