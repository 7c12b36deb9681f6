"""Question files: what is read, and what is refused with its line."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from conftest import ROOT

from stages.errors import DataError
from stages.evaluation.questions import RequestKind, load_questions, load_requests


def write(folder: Path, text: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_questions_keep_their_order_answers_and_aliases(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"question": "Capital of Ukraine?", "answer": "Kyiv", "aliases": ["Kiev"], "country": "Ukraine"}\n\n'
        '{"question": " Capital of Peru? ", "answer": "Lima"}\n',
    )

    first, second = load_questions(path)

    assert first.references == ("Kyiv", "Kiev")
    assert (second.question, second.references) == ("Capital of Peru?", ("Lima",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ("\n \n", "holds no question"),
        ('{"question": "a", "answer": "Lima"}\n{"question": "a"', ":2 is not JSON"),
        ('{"question": "a"}', ":1 is malformed at answer"),
        ('{"question": " ", "answer": "Lima"}', ":1 is malformed at question"),
        ('{"question": "a", "answer": 3}', ":1 is malformed at answer"),
        ('["a", "b"]', ":1 is not a JSON object"),
        (
            '{"question": "Capital of  Peru?", "answer": "Lima"}\n{"question": "capital of peru?", "answer": "Lima"}',
            ":2 repeats",
        ),
        (
            '{"question": "Bogot\u00e1?", "answer": "Lima"}\n{"question": "Bogota\u0301?", "answer": "Lima"}',
            ":2 repeats .*:1: ",
        ),
        ('[{"question": "a", "answer": "Lima"},\n{"question": "A", "answer": "Lima"}]', ":2 repeats .*:1: "),
        ('{"question": "\u200b", "answer": "Lima"}', ":1 is malformed at question: nothing in this text can be seen"),
        ('{"question": "a", "answer": "\u3164"}', ":1 is malformed at answer: nothing in this text can be seen"),
        (
            '{"question": "a", "answer": "Lima", "alias": ["c"]}',
            ":1 is malformed at .*'alias', and the field is called 'aliases'",
        ),
        ('{"question": "a", "answer": "Lima", "Answer-Start": "c"}', "the field is called 'answer_start'"),
        ('{"question": "a", "answer": "🙂"}', ":1 is malformed at answer: it holds no letter and no digit"),
        ('{"question": "a", "answer": "Lima", "aliases": ["…"]}', ":1 is malformed at aliases.0: it holds no letter"),
        ('{"question": "a?", "answer": "the"}', ":1 is malformed at answer: 'the' is nothing but an article"),
        ('{"question": "?", "answer": "Ampere", "aliases": ["A"]}', ":1 is malformed at aliases.0: 'A' is nothing but"),
        ('{"question": "?", "answer": "D."}', ":1 is malformed at answer: 'D.' is a single letter"),
        ('{"question": "?", "answer": "the Ж"}', ":1 is malformed at answer: 'the Ж' is a single letter"),
        ('{"question": "Which dog?", "answer": "Rex", "aliases": ["a dog"]}', "'a dog' stands in its own question"),
        ('{"question": "Is it Oslo, or Lima?", "answer": "Lima"}', ":1 .*'Lima' stands in its own question"),
        ('{"question": "a", "answer": "Lima", "aliases": [""]}', ":1 is malformed at aliases.0"),
        ('{"question": "a", "answer": "Lima", "aliases": "Lima"}', ":1 is malformed at aliases"),
        ('{"question": "a", "answer": "Lima", "answer_start": "\u2060"}', ":1 is malformed at answer_start"),
        ('{"question": "a", "answer": "Lima", "answer": "c"}', ":1 is not JSON: the key 'answer' stands twice"),
        (
            '{"question": "a", "answer": "Lima", "source": "\\ud800"}',
            ":1 is not JSON: 'source' holds half of a character",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_questions(write(tmp_path, text))


def test_a_missing_file_is_refused_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"evaluation\.questions"):
        load_questions(tmp_path / "none.jsonl")


@pytest.mark.parametrize("answer", ["8", "水", "Vitamin D", "Au", "The Hague", "Mexico City", "한"])
def test_short_answers_that_tell_something_are_taken(tmp_path: Path, answer: str) -> None:
    (question,) = load_questions(write(tmp_path, f'{{"question": "Of Mexico, the capital?", "answer": "{answer}"}}'))

    assert question.answer == answer


def test_a_request_has_its_text_and_its_kind(tmp_path: Path) -> None:
    path = write(tmp_path, '{"request": " Write a note. ", "kind": "write", "source": "a person"}\n')

    (found,) = load_requests(path)

    assert (found.request, found.kind) == ("Write a note.", "write")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no request"),
        ('{"request": "a"}', ":1 is malformed at kind: Field required"),
        ('{"request": "a", "kind": "sing"}', ":1 is malformed at kind: Input should be 'write', 'list'"),
        ('{"request": " ", "kind": "list"}', ":1 is malformed at request"),
        ('{"question": "a", "kind": "list"}', ":1 is malformed at request: Field required"),
        ('{"request": "a", "kind": "list"}\n{"request": "A ", "kind": "plan"}', ":2 repeats the request of .*:1: 'A'"),
    ],
)
def test_a_bad_request_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_requests(write(tmp_path, text))


def test_a_missing_request_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The request file .*none\.jsonl cannot be read"):
        load_requests(tmp_path / "none.jsonl")


def test_the_committed_requests_are_of_every_kind_and_their_readme_counts_them() -> None:
    folder = ROOT / "data/instructions"
    found = Counter(each.kind for each in load_requests(folder / "requests.jsonl"))
    table = re.findall(r"^\| `(\w+)` \| (\d+) \|$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert found.total() == 60
    assert {kind: int(count) for kind, count in table} == found
    assert set(found) == set(get_args(RequestKind))
