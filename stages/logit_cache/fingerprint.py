"""What makes two caches the same: every setting and every input that changes a row, and nothing else.

Hashes in, one hash out. Shard size, engine version and hardware are provenance and stand in the manifest only.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

# 2 added what the prompts are as token ids; caches of version 1 say less, and are read as before.
FORMAT_VERSION = 2
SINCE_VERSION_2 = ("student_prompts_sha256", "teacher_prompts_sha256", "stop_ids")
# Token ids and the sizes of lists are int32 in Arrow.
LARGEST_SIZE = 2**31 - 1
# Templates and generation settings name one to ten.
MOST_STOP_IDS = 10_000


def sha256_json(value: Any) -> str:
    """SHA-256 of the value's canonical JSON (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


# prefix_sha256 of a cache of the base model: every query was asked as it stands.
NO_PREFIX = sha256_json(None)


class Fingerprint(BaseModel):
    """Every field changes at least one row when it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: int = Field(
        FORMAT_VERSION, ge=1, le=FORMAT_VERSION, strict=True, description="Version of the row schema and of this list."
    )
    value_kind: Literal["raw_logits"] = Field("raw_logits", description="Scalars before softmax, no other kind.")
    teacher_sha256: str = Field(description="Teacher's weights and architecture.")
    tokenizer_sha256: str = Field(description="Vocabulary, merges, added tokens, normaliser.")
    template_sha256: str = Field(
        description="What the template renders, as token ids of fixed messages, its date and its switches included; "
        "in version 1 its source."
    )
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
    student_prompts_sha256: str | None = Field(
        None, description="Token ids of every row's student_input_ids, in row order; since version 2."
    )
    teacher_prompts_sha256: str | None = Field(
        None, description="Token ids of every prompt that the teacher read, in row order; since version 2."
    )
    stop_ids: tuple[int, ...] | None = Field(None, description="Token ids that end an answer; since version 2.")

    @field_validator("stop_ids", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        """A list is JSON's tuple."""
        if isinstance(value, list) and len(value) > MOST_STOP_IDS:
            raise ValueError(f"{len(value):,} of them, at most {MOST_STOP_IDS:,} are read")
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> "Fingerprint":
        for name in SINCE_VERSION_2:
            if (getattr(self, name) is None) != (self.format_version < 2):
                raise ValueError(f"format version {self.format_version} and {name} do not go together")
        return self

    @model_serializer(mode="wrap")
    def _without_later_fields(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A fingerprint of version 1 is written, and hashed, as version 1 did."""
        fields: dict[str, Any] = dump(self)
        return {name: value for name, value in fields.items() if value is not None}

    def digest(self) -> str:
        """SHA-256 over all fields."""
        return sha256_json(self.model_dump(mode="json"))

    def differences(self, other: "Fingerprint") -> list[str]:
        """One line per differing field: `name: here → there`."""
        return [
            f"{name}: {_short(getattr(self, name))} → {_short(getattr(other, name))}"
            for name in type(self).model_fields
            if getattr(self, name) != getattr(other, name)
        ]


class PromptHash:
    """SHA-256 over prompts in their order, one at a time: of each its length as int64, then its ids as int32, little-endian."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, ids: Sequence[int] | np.ndarray) -> None:
        """The next prompt."""
        self._sha256.update(len(ids).to_bytes(8, "little"))
        self._sha256.update(np.asarray(ids, dtype="<i4").tobytes())

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def hash_prompts(prompts: Iterable[Sequence[int]]) -> str:
    """`PromptHash` of all of them."""
    found = PromptHash()
    for ids in prompts:
        found.add(ids)
    return found.hexdigest()


class QueryHash:
    """SHA-256 over queries in their order, one at a time: of the canonical JSON of their list."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256(b"[")
        self._before = b""

    def add(self, query: str) -> None:
        """The next query."""
        self._sha256.update(self._before + json.dumps(query, ensure_ascii=False).encode())
        self._before = b","

    def hexdigest(self) -> str:
        whole = self._sha256.copy()
        whole.update(b"]")
        return whole.hexdigest()


def hash_queries(queries: Iterable[str]) -> str:
    """`QueryHash` of all of them."""
    found = QueryHash()
    for query in queries:
        found.add(query)
    return found.hexdigest()


def cache_id(fingerprint: Fingerprint, shard_sha256s: Iterable[str]) -> str:
    """The cache's name for life: a hash over the fingerprint and over every shard's SHA-256, in order."""
    return sha256_json({"fingerprint": fingerprint.digest(), "shards": list(shard_sha256s)})


def _short(value: Any) -> str:
    text = str(value)[:200]
    return text[:12] + "…" if len(text) == 64 else text
