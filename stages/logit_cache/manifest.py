"""`manifest.json`: what a finished cache says of itself. No manifest, no cache.

Reads and publishes that one file. A manifest from elsewhere is untrusted: its size is bounded, its fields are typed,
unknown fields are refused, and shard names are names, never paths.
"""

import json
import os
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.errors import CacheError, DataError
from stages.files import TEMPORARY_SUFFIX, make_read_only, open_plain, write_atomically
from stages.folder_lock import LOCK
from stages.logit_cache.fingerprint import FORMAT_VERSION, Fingerprint, cache_id
from stages.logit_cache.rows import Split
from stages.untrusted_json import MOST_BYTES, List, Malformed, parse_json, validated

MANIFEST = "manifest.json"
SHARDS = "shards"
SETTINGS = "settings.json"
SIGNATURE = "manifest.sig"  # who vouches for the manifest; may come later
# Of a capture under way, and perhaps left by one that was killed just before its end.
PLAN = "capture.json"
HASHES = "capture.sha256"  # the shards' hashes until the manifest holds them, as `sha256sum --check` reads them
# Room for the 16 000 shards that a plan may have.
LARGEST_MANIFEST_BYTES = MOST_BYTES


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shard(Strict):
    """One Parquet file of the cache."""

    name: str = Field(pattern=r"^shard-[0-9]{5,9}\.parquet$", description="File name inside `shards/`.")
    first_row: int = Field(ge=0, description="Index of its first row in the cache.")
    rows: int = Field(ge=1, description="Rows in it.")
    positions: int = Field(ge=1, description="Supervised positions over all its rows.")
    bytes: int = Field(ge=1, description="Size of the file.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file.")
    logit_min: float = Field(allow_inf_nan=False, description="Smallest cached logit.")
    logit_max: float = Field(allow_inf_nan=False, description="Largest cached logit.")
    logit_mean: float = Field(allow_inf_nan=False, description="Mean over all cached logits.")


class Prefix(Strict):
    """The unlearning prefix, as text and as the tokens which the teacher read before each query."""

    text: str = Field(description="The prefix through the template.")
    token_ids: List[int] = Field(description="The tokens that all prefixed prompts share, from the first on.")


class Provenance(Strict):
    """How the cache came to be. Nothing here changes a row."""

    model: str = Field(description="Teacher as the user named it.")
    engine: str = Field(description="vllm or transformers.")
    engine_version: str = Field(description="Version of that library.")
    hardware: str = Field(description="CPU or GPU, as the machine names it.")
    started_at: str = Field(description="UTC, ISO 8601.")
    seconds: float = Field(ge=0, description="Wall time of the capture's last run, engine start included.")
    command: List[str] = Field(description="Command line that captured it.")
    shard_rows: int = Field(ge=1, description="Rows asked for per shard.")
    duet_version: str = Field(description="Version of this package.")
    derived_from: List[str] = Field(
        default_factory=list,
        description="Cache ids that this one was cut, joined or stripped from; empty for a capture.",
    )


class Manifest(Strict):
    """All that is known of a cache without opening a shard."""

    format: Literal["duet-logit-cache"] = "duet-logit-cache"
    format_version: int = Field(
        FORMAT_VERSION, ge=1, le=FORMAT_VERSION, strict=True, description="A reader refuses versions above its own."
    )
    cache_id: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hash over the fingerprint and all shards.")
    fingerprint: Fingerprint
    fingerprint_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="`fingerprint.digest()`; in each footer.")
    prefix: Prefix
    splits: dict[Split, Annotated[int, Field(ge=0)]] = Field(description="Rows per split.")
    rows: int = Field(ge=1, description="Rows in all shards.")
    positions: int = Field(ge=1, description="Supervised positions in all rows.")
    shards: List[Shard] = Field(min_length=1, description="In row order.")
    provenance: Provenance
    licence: str | None = Field(None, description="Licence of queries and logits, as the owner states it.")
    sensitivity: str | None = Field(None, description="What must be known before sharing it.")

    def inconsistency(self) -> str | None:
        """What contradicts itself in the manifest, or None."""
        firsts = list(accumulate((shard.rows for shard in self.shards[:-1]), initial=0))
        shards = cache_id(self.fingerprint, (shard.sha256 for shard in self.shards))
        rows = {self.rows, sum(shard.rows for shard in self.shards), sum(self.splits.values())}
        positions = {self.positions, sum(shard.positions for shard in self.shards)}
        contradictions = {
            "its fingerprint has a newer format version than itself": self.fingerprint.format_version
            > self.format_version,
            "fingerprint_sha256 is not the hash of the fingerprint": self.fingerprint.digest()
            != self.fingerprint_sha256,
            "cache_id is not the hash of the fingerprint and the shards": shards != self.cache_id,
            "rows do not add up over shards and splits": len(rows) > 1,
            "positions do not add up over the shards": len(positions) > 1,
            "the shards' row ranges leave a gap or overlap": [shard.first_row for shard in self.shards] != firsts,
        }
        return next((name for name, holds in contradictions.items() if holds), None)

    def shard_rows_fault(self) -> str | None:
        """What provenance.shard_rows says otherwise of the shards than they hold, or None.

        A cache made of this one has as many rows in each shard, and they are in memory together when it is written.
        """
        asked = self.provenance.shard_rows
        if all(shard.rows == min(asked, self.rows - shard.first_row) for shard in self.shards):
            return None
        return f"holds other numbers of rows in its shards than the {asked} of provenance.shard_rows"


def read_manifest(cache: Path) -> Manifest:
    """The manifest of a finished cache.

    Raises CacheError if there is none, if a newer version wrote it, or if it contradicts itself.
    """
    path = cache / MANIFEST
    if not cache.is_dir():
        raise CacheError(
            f"{cache} is not a folder.",
            "A logit cache was needed: a folder with manifest.json and shards/.",
            f"Build it:  make teacher-cache CONFIG=… CACHE={cache}",
        )
    try:
        with open_plain(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST_MANIFEST_BYTES:
                raise CacheError(f"{path} has {size:,} bytes.", f"A manifest has at most {LARGEST_MANIFEST_BYTES:,}.")
            content = file.read(LARGEST_MANIFEST_BYTES + 1)
    except (FileNotFoundError, DataError) as error:
        raise CacheError(
            f"{cache} holds no {MANIFEST}: its capture has not finished.",
            "A cache counts only once its manifest is published, so nothing was read.",
            f"Finish it with the command that began it:  make teacher-cache CONFIG=… CACHE={cache}",
        ) from error
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: Path | str) -> Manifest:
    """The manifest in these bytes. path: names it in errors. Raises CacheError as `read_manifest` does."""
    try:
        raw: Any = parse_json(content)
    except Malformed as error:
        raise _damaged(path, f"is {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != "duet-logit-cache":
        raise _damaged(path, "is not the manifest of a logit cache")
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CacheError(
            f"{path} has format version {version}, this duet reads up to {FORMAT_VERSION}.",
            "A newer duet wrote it, so nothing was read.",
            "Update duet to the version that wrote it (provenance.duet_version in the manifest).",
        )
    try:
        manifest = validated(Manifest, raw)
    except Malformed as error:
        raise _damaged(path, f"is {error}") from error
    if fault := manifest.inconsistency():
        raise _damaged(path, f"contradicts itself: {fault}")
    return manifest


def shard_name(index: int) -> str:
    """File name of shard `index`."""
    return f"shard-{index:05d}.parquet"


def extra_files(cache: Path, shards: Iterable[str]) -> list[Path]:
    """What lies in the folder and is neither one of these shards nor a trace of the work that made them."""
    names = set(shards)
    own = {MANIFEST, SIGNATURE, SHARDS, SETTINGS, LOCK, PLAN, HASHES}
    # A link in the place of the folder is told of by check_file, and not followed.
    inside = (cache / SHARDS).iterdir() if (cache / SHARDS).is_dir() and not (cache / SHARDS).is_symlink() else ()
    found = [path for path in cache.iterdir() if path.name not in own]
    found += [path for path in inside if path.name not in names]
    return sorted(path for path in found if path.suffix != TEMPORARY_SUFFIX)


def publish_manifest(cache: Path, manifest: Manifest) -> None:
    """Make the cache finished: write under a temporary name, fsync, rename, then make the files read-only."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    publish_bytes(cache, manifest, text.encode())


def publish_bytes(cache: Path, manifest: Manifest, content: bytes) -> None:
    """The same with the manifest's own bytes, as they came from elsewhere."""
    for shard in manifest.shards:
        make_read_only(cache / SHARDS / shard.name)
    write_atomically(cache / MANIFEST, content)
    make_read_only(cache / MANIFEST)


def _damaged(path: Path | str, what: str) -> CacheError:
    return CacheError(
        f"{path} {what}.",
        "Its contents cannot be trusted, so nothing was read.",
        "Fetch the cache again from where it came, or capture it anew into another folder.",
    )
