"""Links, folders and pipes that somebody has put where a cache is to be written: nothing elsewhere is touched."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from captures import begin, make_plan
from conftest import write_cache

from stages.errors import DuetError
from stages.logit_cache.manifest import HASHES, MANIFEST, PLAN, SHARDS
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.slicing import slice_cache
from stages.logit_cache.stripping import strip_text
from stages.logit_cache.transfer import pull, push
from stages.logit_cache.verification import verify
from stages.logit_cache.writer import CacheWriter

OPTIONS: dict[str, Any] = {"command": ["test"], "duet_version": "0"}
COMMANDS: dict[str, Callable[[LogitCache, Path], object]] = {
    "capture": lambda source, out: write_cache(out),
    "slice": lambda source, out: slice_cache(source, out, top_k=2, positions=1, **OPTIONS),
    "merge": lambda source, out: merge_caches([source], out, **OPTIONS),
    "strip": strip_text,
    "pull": lambda source, out: pull(str(source.folder), out),
}
TEMPORARY = [f"{SHARDS}/shard-00000.parquet.partial", f"{MANIFEST}.partial", f"{PLAN}.partial", f"{HASHES}.partial"]


@pytest.fixture
def source(tmp_path: Path) -> LogitCache:
    write_cache(tmp_path / "source")
    return LogitCache(tmp_path / "source")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("is_dangling", [False, True])
def test_no_writing_command_follows_a_link_in_the_place_of_its_files(
    source: LogitCache, tmp_path: Path, command: str, is_dangling: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for number, name in enumerate(TEMPORARY):
        out, target = tmp_path / f"out{number}", elsewhere / str(number)
        (out / SHARDS).mkdir(parents=True)
        elsewhere.mkdir(exist_ok=True)
        if not is_dangling:
            target.write_bytes(b"of value")
        (out / name).symlink_to(target)

        try:
            COMMANDS[command](source, out)
        except DuetError:
            assert not (out / MANIFEST).exists()
        else:
            assert verify(out).faults == []
        assert target.exists() != is_dangling
        assert is_dangling or target.read_bytes() == b"of value"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_shards_that_is_a_link_is_refused_in_one_line(
    source: LogitCache, tmp_path: Path, command: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SHARDS).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DuetError, match="is a link"):
        COMMANDS[command](source, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("planted", ["link", "pipe", "folder"])
@pytest.mark.parametrize(
    "name", [PLAN, HASHES, f"{SHARDS}/shard-00001.parquet", f"{SHARDS}/shard-00002.parquet.partial"]
)
def test_a_capture_goes_on_or_says_in_one_line_what_is_in_its_way(tmp_path: Path, name: str, planted: str) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    begin(cache, shards=2)
    path = cache / name
    content = path.read_bytes() if path.exists() else b"of value"
    elsewhere.write_bytes(content)
    path.unlink(missing_ok=True)
    if planted == "link":
        path.symlink_to(elsewhere)
    elif planted == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()

    try:
        with CacheWriter(cache, make_plan()) as writer:
            assert 2 in writer.missing
        write_cache(cache)
    except DuetError as error:
        assert name.rsplit("/", maxsplit=1)[-1] in error.found
        assert not (cache / MANIFEST).exists()
    else:
        assert verify(cache).faults == []
        assert not path.is_symlink()
    assert elsewhere.read_bytes() == content


def test_a_finished_cache_is_not_published_anew(tmp_path: Path, source: LogitCache) -> None:
    slice_cache(source, tmp_path / "out", top_k=2, positions=1, **OPTIONS)
    before = contents(tmp_path / "out")
    slice_cache(source, tmp_path / "out", top_k=2, positions=1, command=["other"], duet_version="1")
    assert contents(tmp_path / "out") == before


def test_pushing_to_a_folder_leaves_nothing_but_the_cache(tmp_path: Path, source: LogitCache) -> None:
    push(source, str(tmp_path / "there"))
    assert verify(tmp_path / "there").faults == []
