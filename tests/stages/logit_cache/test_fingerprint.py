"""What two caches must share to be the same, and what may differ."""

import hashlib
import json

import pytest
from conftest import make_fingerprint
from pydantic import ValidationError

from stages.logit_cache.fingerprint import NO_PREFIX, Fingerprint, cache_id, hash_prompts, hash_queries, sha256_json

CHANGES = {
    "teacher_sha256": "0" * 64,
    "tokenizer_sha256": "0" * 64,
    "template_sha256": "0" * 64,
    "prefix_sha256": "0" * 64,
    "prefix_on_retain": False,
    "forget_sha256": "0" * 64,
    "retain_sha256": "0" * 64,
    "top_k": 5,
    "positions": 4,
    "dtype": "bfloat16",
    "vocab_size": 101,
    "student_prompts_sha256": "0" * 64,
    "teacher_prompts_sha256": "0" * 64,
    "stop_ids": (2, 3),
}
FORMAT_1 = {"format_version": 1, "student_prompts_sha256": None, "teacher_prompts_sha256": None, "stop_ids": None}


def test_canonical_json_is_sorted_without_spaces_and_in_utf8():
    assert sha256_json({"b": [1, 2], "a": "é"}) == hashlib.sha256(b'{"a":"\xc3\xa9","b":[1,2]}').hexdigest()


def test_what_is_hashed_of_a_fingerprint_is_this_text():
    hashes = {
        "forget_sha256": "e", "prefix_sha256": "d", "retain_sha256": "f", "teacher_prompts_sha256": "1",
        "teacher_sha256": "a", "template_sha256": "c", "tokenizer_sha256": "b", "student_prompts_sha256": "2",
    }  # fmt: skip
    # The keys in alphabetical order, one line; a release that hashes another text knows none of the caches that there are.
    text = (
        '{"dtype":"float32","forget_sha256":"<>","format_version":2,"positions":3,"prefix_on_retain":true,"prefix_sha256":"<>",'
        '"retain_sha256":"<>","stop_ids":[2],"student_prompts_sha256":"<>","teacher_prompts_sha256":"<>",'
        '"teacher_sha256":"<>","template_sha256":"<>","tokenizer_sha256":"<>","top_k":4,"value_kind":"raw_logits",'
        '"vocab_size":100}'
    )
    for name in sorted(hashes):
        text = text.replace("<>", hashes[name] * 64, 1)

    fingerprint = make_fingerprint(stop_ids=(2,), **{name: letter * 64 for name, letter in hashes.items()})

    assert fingerprint.digest() == hashlib.sha256(text.encode()).hexdigest()
    whole = json.loads(text)
    assert fingerprint.model_dump(mode="json") == whole
    # Version and kind of values need not be written out.
    assert Fingerprint.model_validate(
        {k: v for k, v in whole.items() if k not in ("format_version", "value_kind")}
    ) == (fingerprint)


def test_the_other_hashes_are_of_these_texts():
    def sha256(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    shards = f'"shards":["{"1" * 64}","{"2" * 64}"]'
    assert sha256("null") == NO_PREFIX
    assert hash_queries(["Où?", "b"]) == sha256('["Où?","b"]')
    assert cache_id(make_fingerprint(), ["1" * 64, "2" * 64]) == sha256(
        f'{{"fingerprint":"{make_fingerprint().digest()}",{shards}}}'
    )


@pytest.mark.parametrize(("field", "least"), [("top_k", 1), ("positions", 1), ("vocab_size", 2)])
def test_sizes_are_what_an_int32_can_count(field: str, least: int):
    for size in (least, 2**31 - 1):
        # The rows of `make_fingerprint` need a vocabulary of their own.
        fields = make_fingerprint().model_dump() | {field: size}
        assert getattr(Fingerprint.model_validate(fields), field) == size
    for size in (least - 1, 2**31):
        with pytest.raises(ValidationError):
            Fingerprint.model_validate(fields | {field: size})


def test_a_fingerprint_cannot_be_changed_and_takes_no_other_field():
    with pytest.raises(ValidationError, match="frozen"):
        make_fingerprint().top_k = 5
    with pytest.raises(ValidationError, match="Extra inputs"):
        Fingerprint.model_validate(make_fingerprint().model_dump() | {"note": "x"})


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_digest(field: str):
    assert make_fingerprint(**{field: CHANGES[field]}).digest() != make_fingerprint().digest()


def test_every_field_that_can_vary_is_covered_above():
    assert set(CHANGES) | {"value_kind", "format_version"} == set(Fingerprint.model_fields)


def test_a_fingerprint_of_version_1_is_hashed_and_written_as_version_1_did():
    fields = make_fingerprint(**FORMAT_1).model_dump(mode="json")
    assert set(fields) == {*CHANGES, "value_kind", "format_version"} - {*FORMAT_1} | {"format_version"}
    assert make_fingerprint(**FORMAT_1).digest() == sha256_json(fields)


@pytest.mark.parametrize("change", [{"format_version": 1}, {"stop_ids": None}, {"teacher_prompts_sha256": None}])
def test_a_version_and_its_fields_go_together(change: dict[str, object]):
    with pytest.raises(ValidationError, match="do not go together"):
        make_fingerprint(**change)


@pytest.mark.parametrize("version", [0, -1, 3, 99, True, 2.0, "2"])
def test_a_version_that_there_never_was_is_refused(version: object):
    with pytest.raises(ValidationError):
        make_fingerprint(format_version=version)
    # Nor is it a version 1 by another number.
    with pytest.raises(ValidationError):
        make_fingerprint(**FORMAT_1 | {"format_version": version})


def test_prompts_are_hashed_as_lengths_and_ids_in_little_endian():
    content = (2).to_bytes(8, "little") + b"\x05\0\0\0\x06\0\0\0" + (0).to_bytes(8, "little")
    assert hash_prompts([[5, 6], []]) == hashlib.sha256(content).hexdigest()
    assert hash_prompts([[5], [6]]) != hash_prompts([[5, 6]])


@pytest.mark.parametrize("field", ["shard_rows", "engine_version", "gpus"])
def test_what_does_not_change_rows_has_no_place_in_it(field: str):
    with pytest.raises(ValidationError):
        make_fingerprint(**{field: 1})


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", "int8"), ("top_k", 0), ("positions", 0), ("value_kind", "logprobs")]
)
def test_values_that_no_teacher_can_have_are_refused(field: str, value: object):
    with pytest.raises(ValidationError):
        make_fingerprint(**{field: value})


def test_differences_name_the_field_and_shorten_hashes():
    other = make_fingerprint(top_k=8, teacher_sha256="9" * 64)
    assert make_fingerprint().differences(other) == [
        "teacher_sha256: aaaaaaaaaaaa… → 999999999999…",
        "top_k: 4 → 8",
    ]


def test_equal_fingerprints_have_no_differences():
    assert make_fingerprint().differences(make_fingerprint()) == []


def test_the_order_of_queries_counts():
    assert hash_queries(["one", "two"]) == hash_queries(("one", "two"))
    assert hash_queries(["one", "two"]) != hash_queries(["two", "one"])


def test_queries_are_hashed_apart_and_not_run_together():
    assert hash_queries(["ab", "c"]) != hash_queries(["a", "bc"])


def test_cache_id_depends_on_the_fingerprint_and_on_every_shard_and_their_order():
    shards = ["1" * 64, "2" * 64]
    ids = {
        cache_id(make_fingerprint(), shards),
        cache_id(make_fingerprint(), shards[::-1]),
        cache_id(make_fingerprint(), shards[:1]),
        cache_id(make_fingerprint(top_k=5), shards),
    }
    assert len(ids) == 4


def test_stop_ids_are_ten_thousand_at_most_and_whatever_is_told_of_them_is_short():
    def read(count: int) -> Fingerprint:
        fields = make_fingerprint().model_dump(mode="json") | {"stop_ids": list(range(count))}
        return Fingerprint.model_validate_json(json.dumps(fields))

    longest = read(10_000)
    assert len(longest.stop_ids or ()) == 10_000
    with pytest.raises(ValidationError, match=r"10,001 of them, at most 10,000 are read"):
        read(10_001)
    # 200 letters of "(0, 1, 2, …".
    (line,) = make_fingerprint().differences(longest)
    assert line == f"stop_ids: (2,) → {str(tuple(range(100)))[:200]}"
