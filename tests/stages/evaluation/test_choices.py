"""Multiple-choice files that are taken and refused, and the scores over answered questions."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import ROOT

from stages.errors import DataError
from stages.evaluation.choices import CHOICE_SCHEMA, LETTERS, choice_scores, load_choices
from stages.evaluation.interview import ANSWER_SCHEMA
from stages.evaluation.scores import score_table, shift_of


def row(file: str, number: int, correct: bool, *groups: str) -> dict[str, Any]:
    """One answered question of the student; with a group it comes from a task, without from a file."""
    texts = {"question": f"{file} {number}", "right": "a", "chosen": "a" if correct else "b"}
    marks = {"origin": "task" if groups else "file", "measure": "acc", "groups": list(groups)}
    return {"model": "student", "file": file, "number": number, "correct": correct, **texts, **marks}


def scored(*rows: dict[str, Any]) -> pl.DataFrame:
    return choice_scores(pl.DataFrame(rows, schema=CHOICE_SCHEMA))


def test_a_group_is_the_mean_over_all_questions_of_its_tasks_and_stands_before_them() -> None:
    big = [row("mmlu_anatomy", number, number < 3, "mmlu", "mmlu_stem") for number in range(8)]
    small = [row("mmlu_law", number, True, "mmlu", "mmlu_humanities") for number in range(2)]
    found = scored(*big, *small, row("general", 0, True), row("general", 1, False))

    shown = {each["file"]: (each["mean"], each["n"], each["origin"]) for each in found.to_dicts()}
    # 5 of 10, not the mean of 3/8 and 2/2.
    assert shown == {
        "mmlu": (50.0, 10, "task"),
        "mmlu_stem": (37.5, 8, "task"),
        "mmlu_anatomy": (37.5, 8, "task"),
        "mmlu_humanities": (100.0, 2, "task"),
        "mmlu_law": (100.0, 2, "task"),
        "general": (50.0, 2, "file"),
    }
    assert [each for each in shown if each.startswith("mmlu")][:3] == ["mmlu", "mmlu_stem", "mmlu_anatomy"]
    group = found.row(by_predicate=pl.col("file") == "mmlu", named=True)
    assert group["metric"] == "accuracy" and group["low"] < 50 < group["high"]


def test_mmlu_fills_its_part_of_the_shift_and_only_a_file_of_ones_own_stands_in_for_it() -> None:
    def chosen(model: str, right: int) -> list[dict[str, Any]]:
        rows = [row("mmlu_anatomy", number, number < right, "mmlu") for number in range(4)]
        rows += [row("general", number, number < right) for number in range(4)]
        return [each | {"model": model} for each in rows]

    shift = shift_of(score_table(pl.DataFrame(schema=ANSWER_SCHEMA)), scored(*chosen("base", 3), *chosen("student", 2)))

    assert shift["parts"]["mmlu"] == -25
    assert shift["stand_ins"] == {"general": {"stands_for": "mmlu", "part": -25}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "?", "choices": ["a"], "answer": 0}', ":1 is malformed at choices"),
        ('{"question": "?", "choices": ["a", "b"], "answer": 2}', "answer is 2, and there are 2 choices"),
        ('{"question": "?", "choices": ["a", "a"], "answer": 0}', "two choices are equal"),
        ('{"question": "?", "choices": ["\u00e9", "e\u0301"], "answer": 0}', "two choices are equal"),
        ('{"question": "?", "choices": ["a", "\u200b"], "answer": 0}', "malformed at choices.1: nothing in this text"),
        (
            '{"question": "?", "choices": ["a", "b"], "answer": true}',
            "malformed at answer: Input should be a valid integer",
        ),
        (
            '{"question": "?", "choices": ["a", "b"], "answer": "1"}',
            "malformed at answer: Input should be a valid integer",
        ),
        (
            '{"question": "?", "choices": ["a", "b"], "answer": 1.0}',
            "malformed at answer: Input should be a valid integer",
        ),
        ('{"question": "?", "choices": ["a", "b"], "answer": "a"}', ":1 is malformed at answer"),
        ("", "holds no question"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "choices.jsonl"
    path.write_text(line)

    with pytest.raises(DataError, match=message):
        load_choices(path)


def test_the_stand_in_asks_a_hundred_questions_of_four_options_each() -> None:
    found = load_choices(ROOT / "data/general_knowledge/choices.jsonl")

    assert len(found) >= 100
    assert {len(question.choices) for question in found} == {4}
    # No place of the right option is so common that always naming it would score.
    assert max([question.answer for question in found].count(place) for place in range(4)) < 0.35 * len(found)
    assert len(LETTERS) >= 4
