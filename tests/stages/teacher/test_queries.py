"""Query files are read strictly: queries only, each once."""

import json
from pathlib import Path

import pytest

from stages.errors import DataError
from stages.teacher.queries import ANSWER_FIELDS, Queries, load_queries


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def retain(tmp_path: Path) -> Path:
    return write(tmp_path / "retain.jsonl", {"query": "Why is the sky blue?", "group": "general"})


def test_queries_come_in_file_order_and_stripped(tmp_path: Path, retain: Path):
    one = write(tmp_path / "one.jsonl", {"query": "  Second letter? "}, {"query": "A first?"})
    two = write(tmp_path / "two.jsonl", {"query": "Ärger?"})
    assert load_queries([one, two], [retain]) == Queries(
        ["Second letter?", "A first?", "Ärger?"], ["Why is the sky blue?"]
    )


def test_blank_lines_are_skipped_and_still_counted(tmp_path: Path, retain: Path):
    path = tmp_path / "forget.jsonl"
    path.write_text('{"query": "one"}\n\n  \nnonsense\n')
    with pytest.raises(DataError, match=r"forget\.jsonl:4 is not JSON"):
        load_queries([path], [retain])


def test_windows_line_ends_are_no_part_of_a_query(tmp_path: Path, retain: Path):
    path = tmp_path / "forget.jsonl"
    path.write_bytes(b'{"query": "one"}\r\n{"query": "two"}\r\n')
    assert load_queries([path], [retain]).forget == ["one", "two"]


def test_a_line_separator_inside_a_query_does_not_end_its_line(tmp_path: Path, retain: Path):
    # U+2028 may stand unescaped in a JSON string.
    path = write(tmp_path / "forget.jsonl", {"query": "one\u2028line"})
    assert load_queries([path], [retain]).forget == ["one\u2028line"]


@pytest.mark.parametrize("field", sorted(ANSWER_FIELDS))
def test_an_answer_is_refused_and_the_reason_given(tmp_path: Path, retain: Path, field: str):
    path = write(tmp_path / "forget.jsonl", {"query": "Capital of France?"}, {"query": "Of Spain?", field: "Madrid"})
    with pytest.raises(DataError, match=f"jsonl:2 has the field '{field}': training files hold queries only") as caught:
        load_queries([path], [retain])
    assert "must never be stored or trained on" in caught.value.needed
    assert "Madrid" not in str(caught.value)


def test_an_answer_in_the_retain_set_is_refused_too(tmp_path: Path, retain: Path):
    path = write(tmp_path / "more.jsonl", {"query": "Currency of Japan?", "answer": "Yen"})
    with pytest.raises(DataError, match="training files hold queries only"):
        load_queries([retain], [path])


def test_an_unknown_field_is_refused_and_named(tmp_path: Path, retain: Path):
    path = write(tmp_path / "forget.jsonl", {"query": "one", "weight": 2})
    with pytest.raises(DataError, match="jsonl:1 has the unknown field 'weight'"):
        load_queries([path], [retain])


@pytest.mark.parametrize(
    "record",
    [{"query": ""}, {"query": " \t"}, {"query": "\u200b\u3164\u2800"}, {"query": None}, {"group": "a"}],
)
def test_an_empty_query_is_refused(tmp_path: Path, retain: Path, record: dict[str, object]):
    with pytest.raises(DataError, match="jsonl:1 has an empty query"):
        load_queries([write(tmp_path / "forget.jsonl", record)], [retain])


@pytest.mark.parametrize("record", [["query"], "query", 7, None])
def test_json_that_is_no_object_is_refused(tmp_path: Path, retain: Path, record: object):
    with pytest.raises(DataError, match="jsonl:1 is not a JSON object"):
        load_queries([write(tmp_path / "forget.jsonl", record)], [retain])


@pytest.mark.parametrize(
    "again",
    ["Capital of France?", "CAPITAL of france?", "  Capital   of\tFrance? ", "Capital\u00a0of Fr\u00adance\u200b?"],
    ids=["same", "case", "spaces", "unseen"],
)
def test_a_repeated_query_is_refused_whatever_its_case_spaces_and_unseen_characters(
    tmp_path: Path, retain: Path, again: str
):
    path = write(tmp_path / "forget.jsonl", {"query": "Capital of France?"}, {"query": "other"}, {"query": again})
    with pytest.raises(DataError, match=r"forget\.jsonl:3 repeats the query of .*forget\.jsonl:1"):
        load_queries([path], [retain])


def test_a_query_repeated_in_another_file_of_the_set_is_refused(tmp_path: Path, retain: Path):
    one = write(tmp_path / "one.jsonl", {"query": "same"})
    two = write(tmp_path / "two.jsonl", {"query": "Same"})
    with pytest.raises(DataError, match=r"two\.jsonl:1 repeats the query of .*one\.jsonl:1"):
        load_queries([one, two], [retain])


def test_a_query_in_both_sets_is_refused(tmp_path: Path, retain: Path):
    forget = write(tmp_path / "forget.jsonl", {"query": "why is the sky BLUE?"})
    with pytest.raises(DataError, match=r"retain\.jsonl:1 repeats the query of .*forget\.jsonl:1"):
        load_queries([forget], [retain])


def test_a_query_is_repeated_by_the_same_letters_in_another_unicode_form(tmp_path: Path):
    composed = write(tmp_path / "forget.jsonl", {"query": "Is Bogot\u00e1 a capital?"})
    decomposed = write(tmp_path / "retain.jsonl", {"query": "Is Bogota\u0301 a capital?"})
    with pytest.raises(DataError, match=r"retain\.jsonl:1 repeats the query of .*forget\.jsonl:1"):
        load_queries([composed], [decomposed])


def test_a_query_is_kept_as_it_was_written(tmp_path: Path, retain: Path):
    path = write(tmp_path / "forget.jsonl", {"query": " Is Bogota\u0301\u200b\u00a0HERE? "})
    assert load_queries([path], [retain]).forget == ["Is Bogota\u0301\u200b\u00a0HERE?"]


def test_an_array_of_queries_is_read_as_lines_are(tmp_path: Path, retain: Path):
    path = tmp_path / "forget.json"
    path.write_text('\ufeff[\n {"query": "one"},\n {"query": "two"},\n {"query": "ONE"}\n]', encoding="utf-8")
    with pytest.raises(DataError, match=r"forget\.json:4 repeats the query of .*forget\.json:2"):
        load_queries([path], [retain])


def test_queries_that_differ_in_a_mark_are_two(tmp_path: Path, retain: Path):
    path = write(tmp_path / "forget.jsonl", {"query": "Capital of France?"}, {"query": "Capital of France"})
    assert len(load_queries([path], [retain]).forget) == 2


def test_a_missing_file_is_refused_and_named(tmp_path: Path, retain: Path):
    with pytest.raises(DataError, match=r"nothing\.jsonl cannot be read \(No such file"):
        load_queries([tmp_path / "nothing.jsonl"], [retain])


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, retain: Path):
    (tmp_path / "forget.jsonl").write_bytes(b'{"query": "Bogot\xe1?"}\n')
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte 16\)"):
        load_queries([tmp_path / "forget.jsonl"], [retain])


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_an_empty_set_is_refused_and_named(tmp_path: Path, retain: Path, name: str):
    sets = {"forget": [write(tmp_path / "forget.jsonl", {"query": "one"})], "retain": [retain]}
    sets[name] = [write(tmp_path / "empty.jsonl")]
    with pytest.raises(DataError, match=f"The {name} set is empty"):
        load_queries(**sets)


@pytest.mark.parametrize("query", [7, ["a"], {}, False])
def test_a_query_that_is_no_text_is_refused_as_such(tmp_path: Path, retain: Path, query: object) -> None:
    with pytest.raises(DataError, match="jsonl:1 has a query that is no text"):
        load_queries([write(tmp_path / "forget.jsonl", {"query": query})], [retain])
