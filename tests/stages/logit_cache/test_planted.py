"""Links, folders and pipes that somebody has put where a cache is to be written: nothing elsewhere is touched."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from captures import begin, make_plan
from conftest import write_cache

from stages.errors import CacheError, DuetError
from stages.logit_cache.manifest import HASHES, MANIFEST, PLAN, SHARDS, SIGNATURE, publish_manifest
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


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_made_where_no_reader_would_take_it(source: LogitCache, tmp_path: Path, command: str) -> None:
    (out := tmp_path / "out" / SHARDS).mkdir(parents=True)
    (out / "shard-00099.parquet").write_bytes(b"of value")

    with pytest.raises(DuetError, match=r"shard-00099.parquet is no part|something else"):
        COMMANDS[command](source, out.parent)

    assert contents(out) == {str(out / "shard-00099.parquet"): b"of value"}


def test_a_pull_does_not_end_beside_signatures_that_nobody_can_read(source: LogitCache, tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    (out / SIGNATURE).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CacheError, match="not a plain file"):
        pull(str(source.folder), out)

    assert not (out / MANIFEST).exists()


def test_a_pull_publishes_the_manifest_that_it_checked_whatever_has_come_to_lie_there(
    source: LogitCache, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    pull(str(source.folder), out, advance=lambda done: (out / MANIFEST).write_bytes(b"{}") and None)

    assert (out / MANIFEST).read_bytes() == (source.folder / MANIFEST).read_bytes()


def test_a_push_sends_no_file_that_a_link_leads_to(source: LogitCache, tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(b"of value")
    shard = source.folder / SHARDS / "shard-00001.parquet"
    shard.unlink()
    shard.symlink_to(tmp_path / "private")

    with pytest.raises(DuetError, match="not a plain file"):
        push(source, str(tmp_path / "remote"))

    assert [path for path in contents(tmp_path / "remote") if "00001" in path] == []


def test_a_link_in_the_place_of_a_shard_does_not_make_another_file_read_only(
    source: LogitCache, tmp_path: Path
) -> None:
    (private := tmp_path / "private").write_bytes(b"of value")
    private.chmod(0o640)
    shard = source.folder / SHARDS / "shard-00001.parquet"
    shard.unlink()
    shard.symlink_to(private)

    with pytest.raises(DuetError, match="not a plain file"):
        publish_manifest(source.folder, source.manifest)

    assert private.stat().st_mode & 0o777 == 0o640
