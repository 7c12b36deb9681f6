"""Caches to and from a real S3 server on the loopback, and to a folder: whole, resumed, and refused when they lie."""

import hashlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import write_cache
from moto.server import ThreadedMotoServer

from stages.errors import CacheError, DuetError, OutputExists
from stages.logit_cache import transfer
from stages.logit_cache.fingerprint import Fingerprint, cache_id
from stages.logit_cache.manifest import MANIFEST, SHARDS
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.remote import Remote
from stages.logit_cache.stripping import strip_text
from stages.logit_cache.transfer import pull, push
from stages.logit_cache.verification import verify


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket on an S3 server of its own, which ordinary settings of the environment name."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
            environment.setenv(f"AWS_{name}", value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["s3", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of this test's own, on either file system."""
    if request.param == "folder":
        return (tmp_path / "remote").as_uri()
    return f"{request.getfixturevalue('bucket')}/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"


@pytest.fixture
def cache(tmp_path: Path) -> LogitCache:
    """20 rows in three shards."""
    write_cache(tmp_path / "cache")
    return LogitCache(tmp_path / "cache")


def names(cache: LogitCache) -> list[str]:
    return [f"{SHARDS}/{shard.name}" for shard in cache.manifest.shards]


def replace_remote(url: str, name: str, content: bytes) -> None:
    remote = Remote(url)
    with remote.files.open(f"{remote.root}/{name}", "wb") as file:
        file.write(content)


def read_remote(url: str, name: str) -> bytes:
    return b"".join(Remote(url).pieces(name))


def test_a_cache_comes_back_byte_for_byte(cache: LogitCache, url: str, tmp_path: Path) -> None:
    sent: list[int] = []
    push(cache, url, advance=sent.append)
    got: list[int] = []
    manifest = pull(url, tmp_path / "back", advance=got.append)

    assert manifest == cache.manifest
    assert sent == got == [shard.bytes for shard in manifest.shards]
    for name in (MANIFEST, *names(cache)):
        assert (tmp_path / "back" / name).read_bytes() == (cache.folder / name).read_bytes()
    assert verify(tmp_path / "back").faults == []


def count_puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    put: list[str] = []
    original = Remote.put

    def counted(self: Remote, source: Path, name: str) -> None:
        put.append(name)
        original(self, source, name)

    monkeypatch.setattr(Remote, "put", counted)
    return put


def test_the_manifest_goes_last_and_a_second_push_sends_nothing(
    cache: LogitCache, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = count_puts(monkeypatch)
    push(cache, url)
    assert put == [*names(cache), MANIFEST]

    push(cache, url)
    assert len(put) == 4


def test_a_push_that_was_cut_off_sends_only_the_rest(
    cache: LogitCache, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(cache, url)
    remote, (first, _, third) = Remote(url), names(cache)
    # One shard never came, one came in part, and so did the manifest.
    remote.files.rm(f"{remote.root}/{first}")
    replace_remote(url, third, read_remote(url, third)[:100])
    replace_remote(url, MANIFEST, read_remote(url, MANIFEST)[:100])
    with pytest.raises(CacheError, match="is not JSON"):
        pull(url, tmp_path / "back")
    put = count_puts(monkeypatch)

    push(cache, url)

    assert put == [first, third, MANIFEST]
    assert pull(url, tmp_path / "back") == cache.manifest


def test_a_pull_that_was_cut_off_fetches_only_the_rest(
    cache: LogitCache, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(cache, url)
    original, missing = Remote.pieces, cache.manifest.shards[1].name

    def cut_off(self: Remote, name: str) -> Iterator[bytes]:
        if name.endswith(missing):
            raise CacheError("the network is gone")
        yield from original(self, name)

    with monkeypatch.context() as cut:
        cut.setattr(Remote, "pieces", cut_off)
        with pytest.raises(CacheError, match="the network is gone"):
            pull(url, tmp_path / "back")
    with pytest.raises(CacheError, match="has not finished"):
        LogitCache(tmp_path / "back")

    fetched: list[str] = []

    def noted(self: Remote, name: str) -> Iterator[bytes]:
        fetched.append(name)
        return original(self, name)

    monkeypatch.setattr(Remote, "pieces", noted)
    pull(url, tmp_path / "back")

    assert fetched == [MANIFEST, *names(cache)[1:]]


def test_another_cache_is_not_overwritten_on_either_side(cache: LogitCache, url: str, tmp_path: Path) -> None:
    push(cache, url)
    write_cache(tmp_path / "other", prefix_sha256="0" * 64)

    with pytest.raises(OutputExists, match="already holds another cache"):
        push(LogitCache(tmp_path / "other"), url)
    with pytest.raises(OutputExists, match="already holds another cache"):
        pull(url, tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(OutputExists, match="already holds something else"):
        pull(url, tmp_path / "mine")
    assert LogitCache(tmp_path / "other").manifest.fingerprint.prefix_sha256 == "0" * 64
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("harm", ["flipped", "longer", "shorter", "missing"])
def test_a_shard_that_is_not_as_promised_is_refused_and_not_kept(
    cache: LogitCache, url: str, tmp_path: Path, harm: str
) -> None:
    push(cache, url)
    name = names(cache)[1]
    content = bytearray(read_remote(url, name))
    content[len(content) // 2] ^= 1
    if harm == "missing":
        remote = Remote(url)
        remote.files.rm(f"{remote.root}/{name}")
    else:
        other = {"flipped": bytes(content), "longer": read_remote(url, name) + b"\0", "shorter": bytes(content[:-1])}
        replace_remote(url, name, other[harm])

    with pytest.raises(CacheError, match=Path(name).name):
        pull(url, tmp_path / "back")

    assert [path.name for path in (tmp_path / "back" / SHARDS).iterdir()] == [Path(names(cache)[0]).name]
    assert not (tmp_path / "back" / MANIFEST).exists()


def test_a_row_that_is_wrong_is_refused_though_every_hash_agrees(cache: LogitCache, url: str, tmp_path: Path) -> None:
    """Somebody who means harm writes the manifest, too."""
    push(cache, url)
    write_cache(tmp_path / "wide", vocab_size=1000)
    raw = json.loads((cache.folder / MANIFEST).read_bytes())
    for shard in raw["shards"]:
        table = pq.read_table(tmp_path / "wide" / SHARDS / shard["name"])
        footer = pq.read_metadata(cache.folder / SHARDS / shard["name"]).metadata
        own = {key: text for key, text in footer.items() if key.startswith(b"duet.")}
        pq.write_table(table.replace_schema_metadata(own), tmp_path / "wide.parquet")
        content = (tmp_path / "wide.parquet").read_bytes()
        replace_remote(url, f"{SHARDS}/{shard['name']}", content)
        shard.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    fingerprint = Fingerprint.model_validate(raw["fingerprint"])
    raw["cache_id"] = cache_id(fingerprint, [shard["sha256"] for shard in raw["shards"]])
    replace_remote(url, MANIFEST, json.dumps(raw).encode())

    with pytest.raises(CacheError, match="outside the vocabulary of 100"):
        pull(url, tmp_path / "back")

    assert list((tmp_path / "back" / SHARDS).iterdir()) == []


def test_a_manifest_that_never_ends_is_not_read_to_its_end(
    cache: LogitCache, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(cache, url)
    monkeypatch.setattr(transfer, "LARGEST_MANIFEST_BYTES", 100)

    with pytest.raises(CacheError, match="more than 100 bytes"):
        pull(url, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_place_without_a_cache_or_without_a_file_system_says_so(url: str, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"holds no manifest\.json"):
        pull(url, tmp_path / "back")
    with pytest.raises(CacheError, match="carrier-pigeon"):
        pull("carrier-pigeon://loft/cache", tmp_path / "back")


def test_an_altered_local_shard_is_refused_and_never_mended_in_place(
    cache: LogitCache, url: str, tmp_path: Path
) -> None:
    push(cache, url)
    pull(url, tmp_path / "back")
    path = tmp_path / "back" / names(cache)[0]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"!")

    with pytest.raises(CacheError, match="SHA-256"):
        pull(url, tmp_path / "back")


def test_a_second_push_without_text_sends_nothing(
    cache: LogitCache, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip_text(cache, tmp_path / "one")
    push(LogitCache(tmp_path / "one"), url)
    strip_text(cache, tmp_path / "two")
    put = count_puts(monkeypatch)

    push(LogitCache(tmp_path / "two"), url)

    assert put == []


def test_a_bucket_that_is_not_there_is_never_made(cache: LogitCache, bucket: str, tmp_path: Path) -> None:
    for move in (lambda: push(cache, "s3://buckett/demo"), lambda: pull("s3://buckett/demo", tmp_path / "back")):
        with pytest.raises(CacheError, match="there is no bucket buckett"):
            move()

    assert [Path(each).name for each in Remote(bucket).files.ls("", refresh=True)] == ["bucket"]


def test_a_server_that_cannot_be_reached_says_so(cache: LogitCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(CacheError, match="cannot be reached"):
        push(cache, "s3://bucket/demo")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_host_that_nobody_knows_is_no_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot be reached"):
        pull("http://nowhere.invalid/cache", tmp_path / "back")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:sw0rdf/ish@bucket/cache",
        "sftp://alice:sw0rdfish@nowhere.invalid/cache",
        "https://nowhere.invalid/cache?sig=sw0rdfish&x=1",
        "https://sw0rdfish@nowhere.invalid/cache",
        "carrier-pigeon://alice:sw0rdfish@loft/cache",
    ],
)
def test_no_error_quotes_what_opens_the_door(cache: LogitCache, url: str, tmp_path: Path, bucket: str) -> None:
    for move in (lambda: push(cache, url), lambda: pull(url, tmp_path / "back")):
        with pytest.raises(CacheError) as told:
            move()
        shown = "".join(traceback.format_exception(told.value.with_traceback(None)))
        assert "sw0rd" not in str(told.value) + shown
        assert "***" in str(told.value)


def test_links_in_the_place_of_a_pull_lead_nowhere(cache: LogitCache, url: str, tmp_path: Path) -> None:
    push(cache, url)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    back = tmp_path / "back"
    (back / SHARDS).mkdir(parents=True)
    (back / f"{MANIFEST}.partial").symlink_to(victim)
    (back / f"{names(cache)[0]}.partial").symlink_to(victim)
    (back / names(cache)[1]).symlink_to(victim)

    pull(url, back)

    assert victim.read_text() == "precious"
    assert not any(path.is_symlink() for path in back.rglob("*"))
    for planted in (SHARDS, ".lock"):
        other = tmp_path / f"other-{planted.strip('.')}"
        other.mkdir()
        (other / planted).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DuetError, match=r"is a link|a link\)"):
            pull(url, other)
    assert not (tmp_path / "elsewhere").exists()


def test_a_manifest_that_is_exchanged_under_way_changes_nothing(
    cache: LogitCache, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(cache, url)
    own = read_remote(url, MANIFEST)
    original = Remote.pieces

    def exchanged(self: Remote, name: str) -> Iterator[bytes]:
        yield from original(self, name)
        if name == MANIFEST:
            replace_remote(url, MANIFEST, b'{"format": "another"}')

    monkeypatch.setattr(Remote, "pieces", exchanged)
    assert pull(url, tmp_path / "back") == cache.manifest
    assert (tmp_path / "back" / MANIFEST).read_bytes() == own


def test_a_stream_that_never_ends_is_cut_off(
    cache: LogitCache, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server names the right size and then sends on."""
    push(cache, url)
    original, sent = Remote.pieces, []

    def endless(self: Remote, name: str) -> Iterator[bytes]:
        if name == MANIFEST:
            yield from original(self, name)
            return
        while True:
            sent.append(name)
            yield bytes(2**20)

    monkeypatch.setattr(Remote, "pieces", endless)
    with pytest.raises(CacheError, match="SHA-256"):
        pull(url, tmp_path / "back")
    assert len(sent) == 1
    assert list((tmp_path / "back" / SHARDS).iterdir()) == []


@pytest.mark.parametrize("name", ["shard-00001.parquet", "shard-00001.parquet.partial"])
def test_a_link_in_the_place_of_a_push_to_a_folder_leads_nowhere(cache: LogitCache, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "there" / SHARDS).mkdir(parents=True)
    (tmp_path / "there" / SHARDS / name).symlink_to(tmp_path / "mine")

    push(cache, str(tmp_path / "there"))

    assert (tmp_path / "mine").read_text() == "precious"
    assert LogitCache(tmp_path / "there").manifest == cache.manifest
