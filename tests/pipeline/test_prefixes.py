"""Names of candidate prefixes: none is lost where two files have one name."""

from pathlib import Path

from pipeline.prefixes import names_of


def test_files_of_one_name_in_two_folders_are_two_candidates(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one/prefix.json", "two/prefix.json", "one/short.json")]

    assert names_of(paths) == {str(paths[0]): paths[0], str(paths[1]): paths[1], "short": paths[2]}


def test_a_file_that_is_given_twice_is_one_candidate(tmp_path: Path) -> None:
    path = tmp_path / "prefix.json"

    assert list(names_of([path, tmp_path / "." / "prefix.json"])) == ["prefix"]
