"""What makes two caches the same: every setting and every input that changes a row, and nothing else.

Hashes in, one hash out. Shard size, engine version and hardware are provenance and stand in the manifest only.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1
# Token ids and the sizes of lists are int32 in Arrow.
LARGEST_SIZE = 2**31 - 1


def sha256_json(value: Any) -> str:
    """SHA-256 of the value's canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# prefix_sha256 of a cache of the base model: every query was asked as it stands.
NO_PREFIX = sha256_json(None)


class Fingerprint(BaseModel):
    """Every field changes at least one row when it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = Field(FORMAT_VERSION, description="Version of the row schema and of this list.")
    value_kind: Literal["raw_logits"] = Field("raw_logits", description="Scalars before softmax, no other kind.")
    teacher_sha256: str = Field(description="Teacher's weights and architecture.")
    tokenizer_sha256: str = Field(description="Vocabulary, merges, added tokens, normaliser.")
    template_sha256: str = Field(description="Chat template, or the plain-text template.")
    prefix_sha256: str = Field(
        description="Unlearning prefix: system sentence and example turns; SHA-256 of `null` if there was none."
    )
    prefix_on_retain: bool = Field(description="Whether retain queries were asked behind the prefix, too.")
    forget_sha256: str = Field(description="Forget queries, in order.")
    retain_sha256: str = Field(description="Retain queries, in order.")
    top_k: int = Field(ge=1, le=LARGEST_SIZE, description="K: candidates per position.")
    positions: int = Field(ge=1, le=LARGEST_SIZE, description="T: most supervised positions per row.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="Dtype in which the teacher ran.")
    vocab_size: int = Field(
        ge=2, le=LARGEST_SIZE, description="Rows of the teacher's output embedding; every id is below it."
    )

    def digest(self) -> str:
        """SHA-256 over all fields."""
        return sha256_json(self.model_dump())

    def differences(self, other: "Fingerprint") -> list[str]:
        """One line per differing field: `name: here → there`."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{name}: {_short(mine[name])} → {_short(theirs[name])}" for name in mine if mine[name] != theirs[name]]


def hash_queries(queries: Sequence[str]) -> str:
    """SHA-256 over the queries in their order."""
    return sha256_json(list(queries))


def cache_id(fingerprint: Fingerprint, shard_sha256s: Iterable[str]) -> str:
    """The cache's name for life: a hash over the fingerprint and over every shard's SHA-256, in order."""
    return sha256_json({"fingerprint": fingerprint.digest(), "shards": list(shard_sha256s)})


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
