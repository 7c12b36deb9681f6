"""Whatever interrupts the writer, the finished cache is that of an uninterrupted run, or there is none."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from captures import begin, contents, make_plan, rows_of
from conftest import ROOT, make_fingerprint, make_provenance, make_row, write_cache

from stages.errors import CacheError, CacheMismatch, OutputExists
from stages.folder_lock import LOCK
from stages.logit_cache.manifest import HASHES, MANIFEST, PLAN, SHARDS, Prefix
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.writer import CacheWriter, whole_shards

# Writes a cache of 20 rows in shards of 8, 8 and 4, and is killed at its n-th fsync, half of what it was to make durable written.
KILLED_WRITER = """
import os, signal, stat, sys
from pathlib import Path
from conftest import write_cache

left, fsync, synced = int(sys.argv[2]), os.fsync, {}

def fsync_or_die(descriptor):
    global left
    left -= 1
    now = os.fstat(descriptor)
    if left:
        synced[now.st_ino] = now.st_size
        return fsync(descriptor)
    if stat.S_ISREG(now.st_mode):
        os.ftruncate(descriptor, (synced.get(now.st_ino, 0) + now.st_size) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = fsync_or_die
write_cache(Path(sys.argv[1]))
"""
LOCKING_WRITER = """
import sys
from pathlib import Path
from conftest import make_fingerprint
from stages.logit_cache.plan import Plan
from stages.logit_cache.writer import CacheWriter

with CacheWriter(Path(sys.argv[1]), Plan(fingerprint=make_fingerprint(), rows=20, shard_rows=8)):
    print("locked", flush=True)
    sys.stdin.read()
"""


def run_python(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True, **options)


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches") / "uninterrupted"
    write_cache(folder)
    return folder


def test_a_writer_killed_at_any_fsync_leaves_no_half_cache_and_its_rerun_gives_the_same_one(
    tmp_path: Path, uninterrupted: Path
):
    kept_counts, fsync = set(), 0
    while True:
        fsync += 1
        cache = tmp_path / str(fsync) / "cache"
        code = run_python(KILLED_WRITER, str(cache), str(fsync)).wait(60)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        finished = (cache / MANIFEST).exists()
        if not finished and cache.is_dir():
            with pytest.raises(CacheError, match="its capture has not finished"):
                LogitCache(cache)
        kept = {path: identity(path) for path in (cache / SHARDS).glob("*.parquet")}
        kept_counts.add(len(kept))

        manifest = write_cache(cache)

        assert manifest == LogitCache(uninterrupted).manifest
        assert contents(cache) == contents(uninterrupted)
        assert {path: identity(path) for path in kept} == kept
        assert not list(cache.rglob("*.partial"))
    # Kills before, between and after the shards were all among them.
    assert kept_counts == {0, 1, 2, 3}


def test_two_identical_captures_are_byte_identical(tmp_path: Path, uninterrupted: Path):
    again = write_cache(tmp_path / "again")
    assert again.cache_id == LogitCache(uninterrupted).manifest.cache_id
    assert contents(tmp_path / "again") == contents(uninterrupted)


def test_the_order_in_which_shards_are_written_does_not_matter(tmp_path: Path, uninterrupted: Path):
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        for index in (2, 0, 1):
            writer.write(index, rows_of(writer, index))
        manifest = writer.publish(Prefix(text="prefix", token_ids=[1, 2]), make_provenance(8), None, None)
    assert manifest == LogitCache(uninterrupted).manifest


def test_another_shard_size_holds_the_same_rows_under_another_id(tmp_path: Path, uninterrupted: Path):
    other = write_cache(tmp_path / "other", shard_rows=20)
    assert other.fingerprint_sha256 == LogitCache(uninterrupted).manifest.fingerprint_sha256
    columns = ["example_id", "topk_ids", "topk_logits"]
    assert LogitCache(tmp_path / "other").frame(columns).equals(LogitCache(uninterrupted).frame(columns))


def test_a_writer_asks_only_for_the_shards_that_are_not_there(tmp_path: Path):
    begin(tmp_path / "cache", shards=2)
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        assert writer.missing == [2]


@pytest.mark.parametrize("damage", ["truncated", "unmarked", "emptied", "other plan", "other rows"])
def test_an_unfinished_captures_unsound_shard_is_captured_again(tmp_path: Path, uninterrupted: Path, damage: str):
    cache = tmp_path / "cache"
    begin(cache, shards=2)
    path = cache / SHARDS / "shard-00000.parquet"
    whole = path.read_bytes()
    write_cache(tmp_path / "foreign", teacher_sha256="0" * 64)
    path.write_bytes(
        {
            "truncated": whole[:-100],
            "unmarked": whole[:-1] + b"X",
            "emptied": b"",
            "other plan": (tmp_path / "foreign" / SHARDS / path.name).read_bytes(),
            "other rows": (cache / SHARDS / "shard-00001.parquet").read_bytes(),
        }[damage]
    )
    with CacheWriter(cache, make_plan()) as writer:
        assert writer.missing == [0, 2]
    assert write_cache(cache).cache_id == LogitCache(uninterrupted).manifest.cache_id


def test_left_over_temporary_files_are_removed_and_never_read(tmp_path: Path):
    begin(tmp_path / "cache", shards=1)
    sound = tmp_path / "cache" / SHARDS / "shard-00000.parquet"
    leftover = tmp_path / "cache" / SHARDS / "shard-00001.parquet.partial"
    leftover.write_bytes(sound.read_bytes())
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        assert writer.missing == [1, 2]
    assert not leftover.exists()


def test_a_second_writer_is_refused_while_another_process_writes(tmp_path: Path):
    cache = tmp_path / "cache"
    first = run_python(LOCKING_WRITER, str(cache), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(CacheError, match="is being written by another process"), CacheWriter(cache, make_plan()):
            pass
    finally:
        # Killed, not closed: the lock must go with its process.
        first.kill()
        first.communicate()
    with CacheWriter(cache, make_plan()) as writer:
        assert writer.missing == [0, 1, 2]


def test_a_second_writer_is_refused_in_the_same_process(tmp_path: Path):
    with (
        CacheWriter(tmp_path / "cache", make_plan()),
        pytest.raises(CacheError, match="is being written"),
        CacheWriter(tmp_path / "cache", make_plan()),
    ):
        pass


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="already holds something that is not a logit cache"):
        CacheWriter(tmp_path, make_plan())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(OutputExists):
        CacheWriter(tmp_path / "cache", make_plan())


def test_an_empty_folder_is_accepted(tmp_path: Path):
    assert write_cache(tmp_path).rows == 20


def test_a_cache_that_lacks_a_shard_cannot_be_published(tmp_path: Path):
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        writer.write(0, rows_of(writer, 0))
        with pytest.raises(CacheError, match=r"still lacks shards \[1, 2\]"):
            writer.publish(Prefix(text="", token_ids=[]), make_provenance(8), None, None)
    assert not (tmp_path / "cache" / MANIFEST).exists()


@pytest.mark.parametrize("count", [7, 9])
def test_a_shard_takes_exactly_its_rows(tmp_path: Path, count: int):
    with CacheWriter(tmp_path / "cache", make_plan()) as writer, pytest.raises(ValueError, match="takes 8 rows"):
        writer.write(0, [make_row(row, writer.plan.fingerprint) for row in range(count)])


def test_a_row_that_breaks_a_rule_never_becomes_a_shard(tmp_path: Path):
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        rows = rows_of(writer, 0)
        rows[3] = replace(rows[3], topk_logits=rows[3].topk_logits[:, ::-1].copy())
        with pytest.raises(CacheError, match=r"row 3 .*not sorted"):
            writer.write(0, rows)
        assert writer.missing == [0, 1, 2]
    assert not list((tmp_path / "cache").rglob("*.parquet"))


def truncate_a_shard(cache: Path) -> None:
    path = cache / SHARDS / "shard-00000.parquet"
    content = path.read_bytes()[:-100]
    path.unlink()
    path.write_bytes(content)


def remove_a_shard(cache: Path) -> None:
    (cache / SHARDS / "shard-00001.parquet").unlink()


def replace_a_shard_by_sound_rows_that_were_never_captured(cache: Path) -> None:
    path = cache / SHARDS / "shard-00000.parquet"
    table = pq.read_table(path, partitioning=None)
    at = table.schema.get_field_index("query")
    table = table.set_column(at, table.schema.field(at), table["query"].combine_chunks().take(list(range(7, -1, -1))))
    path.unlink()
    pq.write_table(table, path)


def test_a_writer_finds_nothing_to_do_in_a_finished_cache_and_changes_nothing(tmp_path: Path):
    write_cache(tmp_path / "cache")
    before = {path: identity(path) for path in (tmp_path / "cache").rglob("*.parquet")}
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        assert writer.missing == []
    assert {path: identity(path) for path in (tmp_path / "cache").rglob("*.parquet")} == before


@pytest.mark.parametrize(
    "damage", [truncate_a_shard, remove_a_shard, replace_a_shard_by_sound_rows_that_were_never_captured]
)
def test_a_damaged_finished_cache_is_refused_and_not_rewritten(tmp_path: Path, damage: Callable[[Path], None]):
    cache = tmp_path / "cache"
    write_cache(cache)
    damage(cache)
    before = contents(cache)
    with pytest.raises(CacheError, match="The cache is not what was captured"):
        CacheWriter(cache, make_plan()).__enter__()
    assert contents(cache) == before


def test_what_another_wrote_before_the_folder_was_held_is_refused(tmp_path: Path):
    writer = CacheWriter(tmp_path / "cache", make_plan())
    write_cache(tmp_path / "cache", teacher_sha256="0" * 64)
    with pytest.raises(CacheMismatch, match="holds a finished cache of another plan"), writer:
        pass


def test_a_finished_cache_holds_its_manifest_and_its_shards_and_no_trace_of_the_capture(tmp_path: Path):
    cache = tmp_path / "cache"
    write_cache(cache)
    assert {path.name for path in cache.iterdir()} <= {MANIFEST, SHARDS, LOCK}
    # A capture that was killed between its manifest and its end leaves these; the next one takes them away.
    for name in (PLAN, HASHES):
        (cache / name).write_bytes(b"")
    with CacheWriter(cache, make_plan()):
        pass
    assert {path.name for path in cache.iterdir()} <= {MANIFEST, SHARDS, LOCK}


def test_a_writer_that_is_refused_holds_nothing(tmp_path: Path):
    write_cache(tmp_path / "cache")
    truncate_a_shard(tmp_path / "cache")
    refused = []
    for _ in range(2):
        with pytest.raises(CacheError, match="The cache is not what was captured") as caught:
            CacheWriter(tmp_path / "cache", make_plan()).__enter__()
        refused.append(caught)  # with all that its traceback holds on to


def test_what_is_written_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache, done = tmp_path / "new" / "cache", []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        done.append((str(path), 0 if stat.S_ISDIR(status.st_mode) else status.st_size))
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        done.append((str(new.relative_to(tmp_path)), -1))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with CacheWriter(cache, make_plan()) as writer:
        # Each new folder is a name in the one above it.
        assert done[:3] == [("new/cache", 0), ("new", 0), (".", 0)]
        assert all(path.startswith("new/cache/") or path == "new/cache" for path, _ in done[3:])
        done.clear()
        shard = writer.write(0, rows_of(writer, 0))

    name = f"new/cache/{SHARDS}/shard-00000.parquet"
    size = (cache / SHARDS / "shard-00000.parquet").stat().st_size
    line = f"{shard.sha256}  shards/shard-00000.parquet\n"
    assert done == [
        (f"{name}.partial", size),
        (f"new/cache/{HASHES}", len(line)),
        (name, -1),
        (f"new/cache/{SHARDS}", 0),
    ]
    assert (cache / HASHES).read_text() == line


@pytest.mark.parametrize("step", ["open", "fsync"])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    def full(*arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = tmp_path / "cache"
    with CacheWriter(cache, make_plan()) as writer:
        rows = rows_of(writer, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(CacheError, match=r"There is no room for .*cache: No space left on device\."):
                writer.write(0, rows)
        assert list((cache / SHARDS).iterdir()) == []
        assert writer.missing == [0, 1, 2]
        assert writer.write(0, rows).rows == 8
        assert writer.missing == [1, 2]


def test_another_fault_of_the_disk_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        rows = rows_of(writer, 0)
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output error"):
            writer.write(0, rows)
        assert list((tmp_path / "cache" / SHARDS).iterdir()) == []


def test_a_finished_cache_is_published_as_it_is(tmp_path: Path):
    manifest = write_cache(tmp_path / "cache")
    before = identity(tmp_path / "cache" / MANIFEST)
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        assert writer.publish(Prefix(text="", token_ids=[]), make_provenance(8), "other", None) == manifest
    assert identity(tmp_path / "cache" / MANIFEST) == before


def test_splits_are_counted_over_shards_that_lack_one(tmp_path: Path):
    # make_row: rows 0 and 3 are in the forget set.
    assert write_cache(tmp_path / "four", rows=4, shard_rows=1).splits == {"forget": 2, "retain": 2}

    with CacheWriter(tmp_path / "two", Plan(fingerprint=make_fingerprint(), rows=2, shard_rows=2)) as writer:
        writer.write(0, [make_row(index, writer.plan.fingerprint) for index in (1, 2)])
        manifest = writer.publish(Prefix(text="", token_ids=[]), make_provenance(2), None, None)
    assert manifest.splits == {"retain": 2}


def test_plan_and_shards_of_an_unfinished_capture_stay_whoever_looks(tmp_path: Path):
    cache = tmp_path / "cache"
    begin(cache, shards=2)
    before = identity(cache / PLAN)
    with open(cache / HASHES, "ab") as file:
        file.write(b"\xff\xfe torn")
    for _ in range(2):
        with CacheWriter(cache, make_plan()) as writer:
            assert writer.missing == [2]
    assert identity(cache / PLAN) == before


def test_a_shard_without_its_noted_hash_is_removed_and_captured_again(tmp_path: Path):
    cache = tmp_path / "cache"
    begin(cache, shards=2)
    replace_a_shard_by_sound_rows_that_were_never_captured(cache)
    assert list(whole_shards(cache, make_plan())) == [1]
    with CacheWriter(cache, make_plan()) as writer:
        assert writer.missing == [0, 2]
        assert [path.name for path in (cache / SHARDS).iterdir()] == ["shard-00001.parquet"]

    (cache / HASHES).unlink()
    assert whole_shards(cache, make_plan()) == {}


def test_whole_shards_are_those_that_a_writer_would_keep(tmp_path: Path):
    cache, plan = tmp_path / "cache", make_plan()
    assert whole_shards(cache, plan) == {}
    assert not cache.exists()
    begin(cache, shards=2)
    begun = whole_shards(cache, plan)
    manifest = write_cache(cache)

    assert begun == dict(enumerate(manifest.shards[:2]))
    assert whole_shards(cache, plan) == dict(enumerate(LogitCache(cache).manifest.shards))
    with pytest.raises(CacheMismatch):
        whole_shards(cache, make_plan(top_k=5))
    truncate_a_shard(cache)
    with pytest.raises(CacheError, match="The cache is not what was captured"):
        whole_shards(cache, plan)
