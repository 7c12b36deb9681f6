"""A frozen cache in, the same rows out without what names their owner and what the teacher was told.

Every token that the student trains on stays, and tokens decode to the queries: this is no anonymisation. A pure function of
the cache: twice the same cache gives twice the same bytes, so that a push can be resumed.
"""

import hashlib
import hmac
import re
from dataclasses import replace
from pathlib import Path

from stages.logit_cache.fingerprint import NO_PREFIX, Fingerprint
from stages.logit_cache.manifest import Manifest, Prefix
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.writer import CacheWriter

REMOVED = (
    "the queries' text; the prefix, as text and as tokens; the command and the folder of the teacher; the ids of the caches that "
    "it was made from. Hashes of queries and prefix are replaced by keyed ones. No signature goes along."
)
STAYS = "Token ids stay, because they are what a student trains on, and they decode to the queries: this is no anonymisation."
# Hashes of what was asked and of what the teacher was told: who guesses a text could see that the guess was right.
HIDDEN_HASHES = ("forget_sha256", "retain_sha256", "prefix_sha256", "teacher_prompts_sha256")


def strip_text(cache: LogitCache, out: Path) -> Manifest:
    """Write the cache without `REMOVED` to `out`, and return its manifest."""
    source = cache.manifest
    plan = Plan(fingerprint=_fingerprint(source), rows=source.rows, shard_rows=source.provenance.shard_rows)
    with CacheWriter(out, plan) as writer:
        for index in writer.missing:
            rows = (cache.row(row) for row in plan.shard_range(index))
            writer.write(
                index,
                [replace(row, query="", example_id=_keyed(source, "example_id", row.example_id)[:32]) for row in rows],
            )
        provenance = source.provenance.model_copy(
            update={
                "model": re.split(r"[/\\]", source.provenance.model.rstrip("/\\"))[-1],
                "command": [],
                "derived_from": [],
            }
        )
        return writer.publish(Prefix(text="", token_ids=[]), provenance, source.licence, source.sensitivity)


def _fingerprint(source: Manifest) -> Fingerprint:
    own = source.fingerprint
    hidden = {
        name: _keyed(source, name, value)
        for name in HIDDEN_HASHES
        # That there was no prefix is what a reader must know.
        if (value := getattr(own, name)) not in (None, NO_PREFIX)
    }
    return own.model_copy(update=hidden)


def _keyed(source: Manifest, name: str, value: str) -> str:
    """A hash that its owner can make again. The key is the id of the cache, which the stripped one names nowhere."""
    return hmac.new(source.cache_id.encode(), f"duet --no-text\0{name}\0{value}".encode(), hashlib.sha256).hexdigest()
