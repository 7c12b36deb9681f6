"""A Parquet file taken apart into pages and footer, and put together again with sizes and offsets that fit.

So that a page can be dropped, doubled or altered, and the file still hangs together everywhere else.
"""

from dataclasses import dataclass

from hostility.thrift import Reader, Struct, struct_bytes

MAGIC = b"PAR1"
# Fields of Parquet's structs, by their numbers in parquet.thrift.
ROW_GROUPS, COLUMNS, GROUP_ROWS = 4, 1, 3
CHUNK_METADATA = 3
UNPACKED_SIZE, PACKED_SIZE, DATA_PAGE, DICTIONARY_PAGE = 6, 7, 9, 11
PAGE_UNPACKED, PAGE_PACKED = 2, 3


@dataclass
class Page:
    header: Struct
    body: bytes


@dataclass
class ShardFile:
    """chunks: pages by (row group, column)."""

    footer: Struct
    chunks: dict[tuple[int, int], list[Page]]


def split_footer(content: bytes) -> tuple[bytes, Struct]:
    """What stands before the footer, and the footer."""
    length = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - length
    return content[:start], Reader(content, start).struct()


def join_footer(data: bytes, footer: Struct) -> bytes:
    written = struct_bytes(footer)
    return data + written + len(written).to_bytes(4, "little") + MAGIC


def metadata_of(footer: Struct) -> dict[tuple[int, int], Struct]:
    """The ColumnMetaData of each chunk."""
    return {
        (group, column): chunk.get(CHUNK_METADATA)
        for group, each in enumerate(footer.get(ROW_GROUPS).values)
        for column, chunk in enumerate(each.get(COLUMNS).values)
    }


def take_apart(content: bytes) -> ShardFile:
    _, footer = split_footer(content)
    chunks = {}
    for place, metadata in metadata_of(footer).items():
        start = metadata.get(DICTIONARY_PAGE) or metadata.get(DATA_PAGE)
        reader = Reader(content, start)
        pages = []
        while reader.at < start + metadata.get(PACKED_SIZE):
            header = reader.struct()
            pages.append(Page(header, reader.take(header.get(PAGE_PACKED))))
        chunks[place] = pages
    return ShardFile(footer, chunks)


def put_together(shard: ShardFile) -> bytes:
    """The file, with the offsets and sizes of its chunks as they now are."""
    data = bytearray(MAGIC)
    for place, metadata in metadata_of(shard.footer).items():
        start, unpacked, first_data = len(data), 0, None
        for page in shard.chunks[place]:
            header = struct_bytes(page.header)
            if page.header.get(1) != 2 and first_data is None:  # 2: a dictionary
                first_data = len(data)
            data += header + page.body
            unpacked += len(header) + (page.header.get(PAGE_UNPACKED) or 0)
        metadata.put(UNPACKED_SIZE, unpacked)
        metadata.put(PACKED_SIZE, len(data) - start)
        metadata.put(DATA_PAGE, start if first_data is None else first_data)
        metadata.put(DICTIONARY_PAGE, start)
    return join_footer(bytes(data), shard.footer)
