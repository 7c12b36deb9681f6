"""A cache is read exactly as written, or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import assert_same_row, make_fingerprint, make_row, write_cache
from hostile import put_table

from stages.errors import CacheError
from stages.logit_cache import reader, shard_files
from stages.logit_cache.fingerprint import Fingerprint, cache_id
from stages.logit_cache.manifest import MANIFEST, SHARDS, Manifest, Shard, read_manifest
from stages.logit_cache.pinned_file import Pin
from stages.logit_cache.reader import Examples, LogitCache, check_file, check_shard
from stages.logit_cache.rows import rows_to_table
from stages.logit_cache.shard_reader import ShardReader

# Two positions of four candidates a row, so with 512 candidates a group shards of 150 rows hold groups of 64, 64 and 22
# rows; the last shard is one group of 50.
ROWS, SHARD_ROWS, GROUP_CANDIDATES = 200, 150, 512


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no test changes."""
    folder = tmp_path_factory.mktemp("caches") / "frozen"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_files, "ROW_GROUP_CANDIDATES", GROUP_CANDIDATES)
        write_cache(folder, ROWS, SHARD_ROWS)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache to be damaged: 20 rows in shards of 8, 8 and 4."""
    write_cache(tmp_path / "cache")
    return tmp_path / "cache"


def shard_path(cache: Path, index: int) -> Path:
    return cache / SHARDS / f"shard-{index:05d}.parquet"


def overwrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def put_rows(cache: Path, index: int, source: Path) -> None:
    """The rows of another shard in the place of shard `index`, with its footer and with hashes that agree."""
    path = shard_path(cache, index)
    footer = {key: text for key, text in pq.read_metadata(path).metadata.items() if key.startswith(b"duet.")}
    table = pq.read_table(source).replace_schema_metadata(footer)
    path.unlink()
    pq.write_table(table, path)
    forge_hashes(cache)


def forge_hashes(cache: Path) -> None:
    """Make the manifest agree with the shards as they now are, as someone who means harm would."""
    import hashlib

    raw = json.loads((cache / MANIFEST).read_bytes())
    for shard in raw["shards"]:
        content = (cache / SHARDS / shard["name"]).read_bytes()
        shard.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    raw["cache_id"] = cache_id(
        Fingerprint.model_validate(raw["fingerprint"]), [shard["sha256"] for shard in raw["shards"]]
    )
    overwrite(cache / MANIFEST, json.dumps(raw).encode())


def test_rows_come_back_in_order_and_to_the_bit(frozen: Path):
    fingerprint = make_fingerprint()
    opened = LogitCache(frozen)
    assert len(opened) == ROWS
    for index, row in enumerate(opened.rows()):
        assert_same_row(row, make_row(index, fingerprint))
    assert index == ROWS - 1


@pytest.mark.parametrize("index", [0, 63, 64, 127, 128, 149, 150, 199])
def test_a_row_by_index_is_the_one_in_order_at_every_border_of_groups_and_shards(frozen: Path, index: int):
    assert_same_row(LogitCache(frozen).row(index), make_row(index, make_fingerprint()))


def test_rows_by_index_in_any_order_are_the_rows_in_order(frozen: Path):
    opened = LogitCache(frozen)
    in_order = list(opened.rows())
    for index in np.random.default_rng(0).permutation(ROWS):
        assert_same_row(opened.row(int(index)), in_order[index])


def test_row_groups_that_were_let_go_are_read_again(frozen: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "KEPT_ROW_GROUPS", 1)
    opened = LogitCache(frozen)
    for index in (0, 199, 64, 1, 198):
        assert_same_row(opened.row(index), make_row(index, make_fingerprint()))


def test_the_row_groups_of_the_cache_above_are_those_that_the_tests_speak_of(frozen: Path):
    assert [table.num_rows for table in LogitCache(frozen).tables()] == [64, 64, 22, 50]


def test_the_row_group_that_was_used_last_is_kept(frozen: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "KEPT_ROW_GROUPS", 2)
    opened = LogitCache(frozen)
    first, second = opened.row(0), opened.row(64)
    assert opened.row(0) is first

    opened.row(128)

    assert opened.row(0) is first
    assert opened.row(64) is not second


def test_so_many_shards_are_open_at_once_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_cache(tmp_path / "cache", rows=20, shard_rows=2)
    monkeypatch.setattr(reader, "KEPT_FILES", 3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = LogitCache(tmp_path / "cache")
    assert len(list(Path("/proc/self/fd").iterdir())) == before

    for index in (*range(20), *range(20)):
        assert_same_row(opened.row(index), make_row(index, make_fingerprint()))
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


@pytest.mark.parametrize("index", [-1, ROWS])
def test_a_row_outside_the_cache_is_an_index_error(frozen: Path, index: int):
    with pytest.raises(IndexError, match=f"row {index} of 200"):
        LogitCache(frozen).row(index)


def test_outline_gives_every_rows_split_and_tokens(frozen: Path):
    cache = LogitCache(frozen)
    forget, tokens = cache.outline()
    # make_row: every third row is in the forget set.
    assert forget.tolist() == [index % 3 == 0 for index in range(ROWS)]
    assert tokens.tolist() == [len(row.student_input_ids) + len(row.response_ids) for row in cache.rows()]
    assert len(set(tokens.tolist())) > 1


def test_so_many_shards_stay_open_and_the_one_used_last_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_cache(tmp_path / "cache", rows=6, shard_rows=2)
    monkeypatch.setattr(reader, "KEPT_FILES", 2)
    monkeypatch.setattr(reader, "KEPT_ROW_GROUPS", 1)
    opened, open_shard, names = LogitCache(tmp_path / "cache"), reader.open_shard, []

    def noted(cache: Path, manifest: Manifest, shard: Shard, pin: Pin) -> ShardReader:
        names.append(int(shard.name[6:11]))
        return open_shard(cache, manifest, shard, pin)

    monkeypatch.setattr(reader, "open_shard", noted)
    # Shards 0, 1, 0, 2, 0, 1: the third lets 1 go, which is opened again at the end.
    for row in (0, 2, 1, 4, 0, 3):
        assert_same_row(opened.row(row), make_row(row, make_fingerprint()))
    assert names == [0, 1, 2, 1]


def test_frame_gives_the_names_of_all_rows_if_no_columns_are_chosen(frozen: Path):
    assert LogitCache(frozen).frame().columns == ["example_id", "split", "query"]


def test_frame_gives_the_chosen_columns_in_row_order(frozen: Path):
    frame = LogitCache(frozen).frame(["query", "split"])
    assert frame.columns == ["query", "split"]
    assert frame["query"].to_list() == [f"query {index}" for index in range(ROWS)]
    assert frame.filter(pl.col("split") == "forget").height == 67


def test_counts_per_split_are_those_of_the_rows(frozen: Path):
    opened = LogitCache(frozen)
    assert (opened.count("forget"), opened.count("retain")) == (67, 133)


def test_of_a_split_that_a_cache_lacks_there_are_no_rows(tmp_path: Path):
    # make_row: row 0 is in the forget set.
    write_cache(tmp_path / "cache", rows=1)
    opened = LogitCache(tmp_path / "cache")
    assert (opened.count("forget"), opened.count("retain")) == (1, 0)


def test_a_cache_in_a_moved_folder_is_the_same_cache(cache: Path):
    before = LogitCache(cache).manifest.cache_id
    moved = cache.rename(cache.with_name("moved"))
    assert LogitCache(moved).manifest.cache_id == before


def test_a_cache_without_manifest_is_refused(cache: Path):
    (cache / MANIFEST).unlink()
    with pytest.raises(CacheError, match="its capture has not finished"):
        LogitCache(cache)


@pytest.mark.parametrize("shard", [0, 2])
@pytest.mark.parametrize("place", ["magic", "header", "middle", "footer", "last"])
def test_one_altered_byte_anywhere_is_refused(cache: Path, shard: int, place: str):
    path = shard_path(cache, shard)
    content = bytearray(path.read_bytes())
    at = {"magic": 0, "header": 5, "middle": len(content) // 2, "footer": len(content) - 40, "last": len(content) - 1}
    content[at[place]] ^= 1
    overwrite(path, bytes(content))
    with pytest.raises(CacheError, match=f"{path.name} has another SHA-256 than the manifest says"):
        LogitCache(cache)


@pytest.mark.parametrize("cut", [1, 100])
def test_a_truncated_shard_is_refused(cache: Path, cut: int):
    path = shard_path(cache, 1)
    overwrite(path, path.read_bytes()[:-cut])
    with pytest.raises(CacheError, match="bytes, the manifest says"):
        LogitCache(cache)


def test_a_shard_with_bytes_appended_is_refused(cache: Path):
    path = shard_path(cache, 1)
    overwrite(path, path.read_bytes() + b"\0")
    with pytest.raises(CacheError, match="bytes, the manifest says"):
        LogitCache(cache)


def test_a_missing_shard_is_refused(cache: Path):
    shard_path(cache, 1).unlink()
    with pytest.raises(CacheError, match=r"shard-00001.parquet is missing"):
        LogitCache(cache)


def test_a_missing_folder_of_shards_is_refused(cache: Path):
    (cache / SHARDS).rename(cache.parent / "elsewhere")
    with pytest.raises(CacheError, match=r"shard-00000.parquet is missing"):
        LogitCache(cache)


def test_a_shard_that_is_a_link_is_not_followed(cache: Path):
    path = shard_path(cache, 1)
    path.rename(cache.parent / "elsewhere.parquet")
    path.symlink_to(cache.parent / "elsewhere.parquet")
    with pytest.raises(CacheError, match="not a plain file"):
        LogitCache(cache)


def test_a_folder_of_shards_that_is_a_link_is_not_followed(cache: Path):
    (cache / SHARDS).rename(cache.parent / "elsewhere")
    (cache.parent / "elsewhere" / "a name that is not told").touch()
    (cache / SHARDS).symlink_to(cache.parent / "elsewhere")
    with pytest.raises(CacheError, match="not a plain file"):
        LogitCache(cache)


def test_a_shard_that_is_a_folder_is_refused(cache: Path):
    shard_path(cache, 1).unlink()
    shard_path(cache, 1).mkdir()
    with pytest.raises(CacheError, match="not a plain file"):
        LogitCache(cache)


def test_two_shards_in_each_others_place_are_refused(cache: Path):
    one, other = shard_path(cache, 0).read_bytes(), shard_path(cache, 1).read_bytes()
    overwrite(shard_path(cache, 0), other)
    overwrite(shard_path(cache, 1), one)
    with pytest.raises(CacheError, match=r"shard-00000\.parquet"):
        LogitCache(cache)


def test_a_shard_that_is_no_parquet_is_refused_even_if_the_manifest_vouches_for_it(cache: Path):
    overwrite(shard_path(cache, 0), b"\x80\x04 a pickle, perhaps")
    forge_hashes(cache)
    with pytest.raises(CacheError, match="is not a Parquet file"):
        LogitCache(cache)


def test_a_shard_with_other_columns_is_refused_even_if_the_manifest_vouches_for_it(cache: Path, tmp_path: Path):
    write_cache(tmp_path / "wider", top_k=5)
    overwrite(shard_path(cache, 0), shard_path(tmp_path / "wider", 0).read_bytes())
    forge_hashes(cache)
    with pytest.raises(CacheError, match="other columns than format version 1 with K = 4"):
        LogitCache(cache)


def test_a_shard_with_other_rows_is_refused_even_if_the_manifest_vouches_for_it(cache: Path):
    overwrite(shard_path(cache, 0), shard_path(cache, 2).read_bytes())
    forge_hashes(cache)
    with pytest.raises(CacheError, match="holds 4 rows, the manifest says 8"):
        LogitCache(cache)


def test_ids_outside_the_vocabulary_are_refused_when_read_even_if_the_manifest_vouches_for_them(
    cache: Path, tmp_path: Path
):
    write_cache(tmp_path / "larger", vocab_size=100_000)
    put_rows(cache, 0, shard_path(tmp_path / "larger", 0))
    opened = LogitCache(cache)
    with pytest.raises(CacheError, match="outside the vocabulary of 100"):
        opened.row(0)


def test_pages_that_cannot_be_decoded_are_a_cache_error(cache: Path):
    path = shard_path(cache, 0)
    content = bytearray(path.read_bytes())
    # Everything between the magic number and the last kilobytes of metadata: the columns that opening counts, too.
    content[4 : len(content) // 4] = bytes(len(content) // 4 - 4)
    overwrite(path, bytes(content))
    forge_hashes(cache)
    with pytest.raises(CacheError, match="cannot be read"):
        LogitCache(cache)


@pytest.mark.parametrize("name", ["answers.txt", "shards/shard-00003.parquet", "shards/.hidden", "shards/more"])
def test_a_file_that_is_not_in_the_manifest_is_refused_and_named(cache: Path, name: str):
    if name.endswith("more"):
        (cache / name).mkdir()
    else:
        (cache / name).write_bytes(b"what is this?")
    with pytest.raises(CacheError, match=f"{name} is no part of the cache"):
        LogitCache(cache)


def test_traces_of_the_work_that_made_a_cache_are_no_harm(cache: Path):
    # A capture that was killed between its manifest and its end leaves them all.
    for name in ("settings.json", "capture.json", "capture.sha256", "shards/shard-00001.parquet.partial"):
        (cache / name).write_bytes(b"{}")
    assert len(LogitCache(cache)) == 20


def test_every_row_of_a_sound_cache_passes_one_look_at_all(frozen: Path):
    LogitCache(frozen).check_every_row()


def test_an_example_in_two_shards_is_refused_even_if_the_manifest_vouches_for_it(cache: Path):
    # Both shards have eight rows: rows 0 to 7 now stand there twice.
    put_rows(cache, 1, shard_path(cache, 0))
    raw = json.loads((cache / MANIFEST).read_bytes())
    first, second = raw["shards"][:2]
    raw["positions"] += first["positions"] - second["positions"]
    second.update({name: first[name] for name in ("positions", "logit_min", "logit_max", "logit_mean")})
    overwrite(cache / MANIFEST, json.dumps(raw).encode())
    forge_hashes(cache)
    opened = LogitCache(cache)
    with pytest.raises(
        CacheError, match=f"row 0: example {make_row(0, make_fingerprint()).example_id} stands there more"
    ):
        opened.check_every_row()


def test_a_shards_file_alone_is_held_to_the_manifest(cache: Path):
    shard = read_manifest(cache).shards[1]
    before = len(list(Path("/proc/self/fd").iterdir()))
    check_file(cache, shard)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    overwrite(shard_path(cache, 1), shard_path(cache, 1).read_bytes()[:-1] + b"X")
    with pytest.raises(CacheError, match=r"shard-00001\.parquet has another SHA-256 than the manifest says"):
        check_file(cache, shard)


def test_shard_by_shard_examples_and_splits_are_counted(cache: Path):
    manifest, examples, splits = read_manifest(cache), Examples(), dict[str, int]()
    for shard in manifest.shards:
        check_shard(cache, manifest, shard, examples, splits)
    examples.refuse_repeated(cache)
    # Rows 0, 3, … 18.
    assert splits == {"forget": 7, "retain": 13}

    check_shard(cache, manifest, manifest.shards[2], examples, splits)
    assert splits == {"forget": 8, "retain": 16}
    with pytest.raises(CacheError) as caught:
        examples.refuse_repeated(cache)
    # Rows 16 to 19 came twice.
    example = make_row(16, make_fingerprint()).example_id
    assert caught.value.found == f"{cache}, row 16: example {example} stands there more than once."


def test_a_shard_is_checked_for_its_mean_and_its_example_ids(cache: Path):
    manifest = read_manifest(cache)
    other = manifest.shards[1].model_copy(update={"logit_mean": manifest.shards[1].logit_mean + 0.001})
    with pytest.raises(CacheError, match=r"shard-00001\.parquet has other extremes or another mean than the manifest"):
        check_shard(cache, manifest, other, Examples(), {})

    rows = [make_row(index, make_fingerprint()) for index in range(8, 16)]
    rows[3] = replace(rows[3], example_id="0" * 32)
    put_table(cache, rows_to_table(rows, 4))
    manifest = read_manifest(cache)
    with pytest.raises(CacheError, match=r"^shard-00001\.parquet, row group 0, row 3 .*not the hash of its query"):
        check_shard(cache, manifest, manifest.shards[1], Examples(), {})
