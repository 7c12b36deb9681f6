"""What is read of a footer is what Arrow reads; what Arrow would end the process over is refused."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import write_cache
from hostile import SECOND, overwrite, read_whole, vouch
from hostility.shard_file import COLUMNS, ROW_GROUPS, join_footer, split_footer
from hostility.thrift import BINARY, I64, STRUCT, Field, Items, Struct, struct_bytes

from stages.errors import CacheError
from stages.logit_cache.footer import read_footer


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


def test_a_footer_says_what_arrow_says_of_it(cache: Path) -> None:
    metadata = pq.read_metadata(cache / SECOND)
    with open(cache / SECOND, "rb") as file:
        (group,) = read_footer(file, "shard")

    assert group.rows == metadata.row_group(0).num_rows == 8
    for index, chunk in enumerate(group.chunks):
        column = metadata.row_group(0).column(index)
        assert chunk.column == column.path_in_schema.split(".")[0]
        assert (chunk.values, chunk.unpacked_bytes) == (column.num_values, column.total_uncompressed_size)
        assert chunk.is_text == (column.physical_type == "BYTE_ARRAY")


def test_the_tree_of_a_footer_is_written_back_to_the_same_bytes(cache: Path) -> None:
    content = (cache / SECOND).read_bytes()

    assert join_footer(*split_footer(content)) == content


def chunks(footer: Struct) -> Items:
    found: Items = footer.get(ROW_GROUPS).values[0].get(COLUMNS)
    return found


def values_of(column: int, count: int) -> Callable[[Struct], object]:
    return lambda footer: chunks(footer).values[column].get(3).put(5, count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Arrow: "terminate called after throwing an instance of parquet::ParquetException".
        (lambda footer: chunks(footer).values.reverse(), "has other column chunks than example_id"),
        (lambda footer: chunks(footer).values.pop(), "has other column chunks"),
        (values_of(2, 0), "not as many values of query"),
        (values_of(5, 3), "not as many values of student_positions"),
        (values_of(7, 60), "not as many values of topk_logits"),
        (values_of(0, -1), "a count is -1"),
        (lambda footer: chunks(footer).values[0].fields.insert(0, Field(1, BINARY, b"/etc/passwd")), "in another file"),
        (lambda footer: footer.fields.append(Field(3, I64, 8)), "field 3 stands twice"),
    ],
)
def test_a_footer_whose_chunks_are_not_those_of_its_rows_is_refused(
    cache: Path, change: Callable[[Struct], object], message: str
) -> None:
    data, footer = split_footer((cache / SECOND).read_bytes())
    change(footer)
    overwrite(cache / SECOND, join_footer(data, footer))
    vouch(cache)

    with pytest.raises(CacheError, match=message):
        read_whole(cache)


def tower(height: int) -> bytes:
    inner = Struct()
    for _ in range(height):
        inner = Struct([Field(1, STRUCT, inner)])
    return struct_bytes(inner)


@pytest.mark.parametrize(
    "footer",
    [
        b"\x49\xfc\xff\xff\xff\x0f",  # a list of 2^32 structs
        tower(100),
        b"\x49\xf5\x80\x80\x80\x02" + bytes(2**22) + b"\0",  # a list of more values than a footer has
        b"\x15" + b"\xff" * 20 + b"\x01\x00",  # a number without an end
        struct_bytes(Struct([Field(4, BINARY, b"x")]))[:-2],
        b"",
        b"\x00",
    ],
)
def test_bytes_that_are_no_footer_are_refused(footer: bytes) -> None:
    content = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"

    with pytest.raises(CacheError, match="its footer is damaged"):
        read_footer(io.BytesIO(content), "shard")
