"""A cache in, all its faults out: every hash, every row, every footer, and what is there that should not be.

Opening a cache stops at the first fault; this goes on, shard by shard, with one row group in memory. What a cache cannot
prove of itself is listed, too: nobody should take silence for a proof.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from stages.errors import CacheError
from stages.logit_cache.checks import LARGEST_LOGIT, check_example_ids
from stages.logit_cache.fingerprint import PromptHash, QueryHash
from stages.logit_cache.manifest import MANIFEST, Manifest, Shard, extra_files, read_manifest
from stages.logit_cache.rows import SPLITS, ragged
from stages.logit_cache.shard_reader import Sums, open_shard, splits_fault

# Whether these token ids are a prompt of this query.
Asks = Callable[[Sequence[int], str], bool]
NO_TEXT = "some rows have no text: it was left out with --no-text"


@dataclass(frozen=True)
class Fault:
    """Where, and what is wrong there. shard: its name, or "manifest.json"."""

    shard: str
    message: str


@dataclass(frozen=True)
class Unchecked:
    """What nothing here vouches for, and why."""

    what: str
    why: str


@dataclass
class Findings:
    """What was looked at, what is wrong with it, and what could not be looked at."""

    faults: list[Fault] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: list[Unchecked] = field(default_factory=list)

    def compare(self, what: str, fault: str | None, unknown: str | None = None) -> None:
        """Note a check of the manifest. fault: what was found, if anything; unknown: why it could not be made."""
        if unknown:
            self.not_checked.append(Unchecked(what, unknown))
            return
        self.checked.append(what)
        if fault:
            self.faults.append(Fault(MANIFEST, fault))


@dataclass
class _Seen:
    """What only all rows together tell."""

    examples: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    prompts: PromptHash = field(default_factory=PromptHash)
    queries: dict[str, QueryHash] = field(default_factory=lambda: {split: QueryHash() for split in SPLITS})
    lacks_text: bool = False
    unread: str = ""  # the first shard that could not be read to its end


def verify(
    folder: Path,
    *,
    asks: Asks | None = None,
    no_tokenizer: str = "",
    advance: Callable[[int], None] = lambda done: None,
) -> Findings:
    """All faults of a finished cache, what was checked to find them, and what could not be.

    asks: reads token ids with the teacher's tokenizer; without it, no_tokenizer says why there is none. advance: told
    once per shard.
    Raises CacheError if there is no readable manifest, without which there is no cache to speak of.
    """
    manifest, found, seen = read_manifest(folder), Findings(), _Seen()
    for path in extra_files(folder, (shard.name for shard in manifest.shards)):
        found.faults.append(Fault(path.name, "is not in the manifest"))
    for shard in manifest.shards:
        try:
            _look_at_shard(folder, manifest, shard, seen, found, asks)
        except CacheError as error:
            seen.unread = seen.unread or shard.name
            found.faults.append(Fault(shard.name, error.found))
        advance(1)
    found.checked += [
        "the manifest: its fields, its sums, the hashes over it, and that nothing else lies in the folder",
        "every shard: its size, its SHA-256, its place, its rows, its positions, its extremes and its mean",
        "every row: its ids lie in the vocabulary, its logits fall and lie within "
        f"±{LARGEST_LOGIT:,.0f}, its answer is greedy, its lists have one length",
        "every example: it stands in the cache once" + ("" if seen.lacks_text else ", and is the hash of its query"),
    ]
    if seen.lacks_text:
        found.not_checked.append(Unchecked("example_id", NO_TEXT))
    unread = f"{seen.unread} could not be read to its end" if seen.unread else None
    _compare_sums(manifest, seen, found, unread)
    found.compare("the tokens of every row hold its query", None, NO_TEXT if seen.lacks_text else no_tokenizer or None)
    found.not_checked += [
        Unchecked("the prefix, the licence, the provenance", "no row depends on them, and nothing proves them"),
    ]
    return found


def _compare_sums(manifest: Manifest, seen: _Seen, found: Findings, unread: str | None) -> None:
    """The manifest against all rows together."""
    fingerprint = manifest.fingerprint
    found.compare("splits", splits_fault(manifest, seen.splits), unread)
    found.compare("shard_rows", manifest.shard_rows_fault())
    promised = fingerprint.student_prompts_sha256
    differs = promised != seen.prompts.hexdigest()
    found.compare(
        "student_prompts_sha256",
        "names other student prompts (student_prompts_sha256) than stand in the rows" if differs else None,
        unread if promised else "format version 1 does not have it",
    )
    for split, queries in seen.queries.items():
        name = f"{split}_sha256"
        alike = getattr(fingerprint, name) == queries.hexdigest()
        unknown = unread or (NO_TEXT if seen.lacks_text else None)
        if not alike and manifest.provenance.derived_from:
            unknown = unknown or "it was made of other caches; where these were merged, it is a hash over theirs"
        found.compare(name, None if alike else f"names other {split} queries ({name}) than stand in the rows", unknown)


def _look_at_shard(
    folder: Path, manifest: Manifest, shard: Shard, seen: _Seen, found: Findings, asks: Asks | None
) -> None:
    sums = Sums(splits=seen.splits)
    with open_shard(folder, manifest, shard) as reader:
        for group, table in enumerate(reader.groups()):
            where = f"{shard.name}, row group {group}"
            sums.add(table, with_mean=True)
            _look_at_rows(table, where, shard, seen, found, asks)
            check_example_ids(table, where)
    if fault := sums.fault(shard, manifest.fingerprint.top_k):
        found.faults.append(Fault(shard.name, fault))


def _look_at_rows(table: pa.Table, group: str, shard: Shard, seen: _Seen, found: Findings, asks: Asks | None) -> None:
    ids, offsets = ragged(table["student_input_ids"])
    columns = (table[name].to_pylist() for name in ("example_id", "split", "query"))
    for row, (example, split, query, (start, end)) in enumerate(zip(*columns, pairwise(offsets), strict=True)):
        where = f"{group}, row {row}"
        if example in seen.examples:
            found.faults.append(Fault(shard.name, f"{where} repeats example {example} of {seen.examples[example]}"))
        seen.examples[example] = where
        seen.queries[split].add(query)
        seen.lacks_text = seen.lacks_text or not query
        seen.prompts.add(ids[start:end])
        if asks and query and not asks(ids[start:end].tolist(), query):
            found.faults.append(Fault(shard.name, f"{where}: its tokens do not hold its query"))
