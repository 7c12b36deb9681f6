"""Files that programs wrote and that may have been damaged since."""

from pathlib import Path

import pytest

from stages.errors import DataError, OutputUnwritable
from stages.files import read_json, refuse_unwritable, write_json


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "new/a.json", {"a": [1, "é", None]})

    assert read_json(tmp_path / "new/a.json") == {"a": [1, "é", None]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not JSON: Expecting value"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b"[]", "is not a JSON object"),
        (None, "No such file or directory"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError) as error:
        read_json(path, "An evaluation was needed.", "Make one.")

    assert str(path) in error.value.found
    assert fault in error.value.found
    assert "\n" not in error.value.found
    assert (error.value.needed, error.value.next_step) == ("An evaluation was needed.", "Make one.")


def test_a_place_where_nothing_can_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path, tmp_path / "file/scores.json", Path("/proc/scores/scores.json")):
        with pytest.raises(OutputUnwritable, match="cannot be written"):
            refuse_unwritable(path)
    refuse_unwritable(tmp_path / "new/folder/scores.json")
    assert not list((tmp_path / "new/folder").iterdir())
