"""Files that programs wrote and that may have been damaged since."""

from pathlib import Path

import pytest

from stages.errors import DataError
from stages.files import read_json, write_json


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
