"""Files that programs wrote and that may have been damaged since."""

import os
from pathlib import Path

import pytest
from small_files import files_up_to

from stages.errors import DataError, OutputUnwritable
from stages.files import append, make_own_folder, open_plain, read_json, refuse_unwritable, remove_tree, write_json


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


def test_a_file_without_room_is_named_and_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    with files_up_to(1000):
        with pytest.raises(OSError, match="File too large") as whole:
            write_json(path, {"a": "x" * 2000})
        with pytest.raises(OSError, match="File too large") as added:
            append(path, b"x" * 2000)

    assert whole.value.filename == added.value.filename == str(path)
    assert path.read_bytes().startswith(b'{\n "a": 1\n}\n')
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_planted_link_is_replaced_and_what_it_names_stays_as_it_is(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("of value")
    for name in ("a.json.partial", "a.json"):
        (tmp_path / name).symlink_to(elsewhere)

    write_json(tmp_path / "a.json", {"a": 1})

    assert elsewhere.read_text() == "of value"
    assert not (tmp_path / "a.json").is_symlink()
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_a_folder_in_the_place_of_a_temporary_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json.partial").mkdir()

    with pytest.raises(OutputUnwritable, match=r"a\.json\.partial is a folder"):
        write_json(tmp_path / "a.json", {})


def test_an_own_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shards").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OutputUnwritable, match="is a link"):
        make_own_folder(tmp_path / "shards")


def test_only_plain_files_are_opened_and_none_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    with open_plain(tmp_path / "plain") as file:
        assert file.read() == b"content"
    for name in ("link", "pipe", "folder", "/dev/null"):
        with pytest.raises(DataError, match="is not a plain file"):
            open_plain(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "missing")


def test_removing_a_tree_that_is_a_link_leaves_the_tree(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "tree")

    remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "tree/file").exists()
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
