"""Performance Shift against the paper's rows; the tidy table; the targets."""

from typing import Any

import polars as pl
import pytest

from stages.evaluation.interview import ANSWER_SCHEMA
from stages.evaluation.scores import performance_shift, score_table, scores_frame, shift_of, with_paraphrases

PARTS = ("forget", "forget_500", "retain", "mmlu")
PAPER_BASE = dict(zip(PARTS, (32.13, 39.99, 84.29, 61.46), strict=True))


@pytest.mark.parametrize(
    ("method", "scores", "shift"),
    [("DUET", (4.27, 5.98, 78.33, 61.45), 55.90), ("gradient ascent", (0, 0, 0, 24.87), -48.76)],
)
def test_performance_shift_gives_the_rows_of_the_paper(method: str, scores: tuple[float, ...], shift: float) -> None:
    """Source: DUET (ICLR 2026), table of results on Harry Potter."""
    found = performance_shift(PAPER_BASE, dict(zip(PARTS, scores, strict=True)))

    # The paper's own sum is rounded: its columns give 55.91.
    assert found["value"] == pytest.approx(shift, abs=0.011)
    assert found["not_measured"] == []
    assert sum(found["parts"].values()) == pytest.approx(found["value"])


def test_a_part_that_was_not_measured_is_null_and_so_is_the_sum() -> None:
    found = performance_shift({"forget": 50.0, "retain": 60.0}, {"forget": 10.0, "retain": 55.0, "mmlu": 30.0})

    assert found["value"] is None
    assert found["parts"] == {"forget": 40.0, "forget_500": None, "retain": -5.0, "mmlu": None}
    assert found["not_measured"] == ["forget_500", "mmlu"]
    assert found["sum_of_measured"] == 35.0


def test_nothing_measured_is_null_and_not_zero() -> None:
    assert performance_shift({}, {})["sum_of_measured"] is None


def answer(model: str, file: str, recall: float, attack: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "model": model, "file": file, "number": 0, "attack": attack, "supplies_answer": False, "question": "?",
        "asked": "?", "answer_start": "", "reference": "!", "answer": "…", "tokens": 1, "rouge_l_recall": recall,
        "rouge_l_f1": recall / 2, "exact": False, "in_full": False, "leaked": False,
        "right": False, "refused": False, "degenerate": False, **changes,
    }  # fmt: skip


def table(*answers: dict[str, Any]) -> pl.DataFrame:
    return score_table(pl.DataFrame(answers, schema=ANSWER_SCHEMA))


def test_the_table_has_one_row_per_model_file_attack_and_metric_in_points() -> None:
    scores = table(
        answer("base", "forget", 1.0),
        answer("base", "forget", 0.0, number=1, refused=True, exact=True),
        answer("student", "forget", 0.5),
        answer("student", "forget", 0.5, attack="reverse"),
    )

    rows = {(row["model"], row["attack"], row["metric"]): (row["mean"], row["n"]) for row in scores.to_dicts()}
    assert rows["base", None, "rouge_l_recall"] == (50, 2)
    assert rows["base", None, "rouge_l_f1"] == (25, 2)
    assert rows["base", None, "refusal_rate"] == (50, 2)
    assert rows["base", None, "exact_match"] == (50, 2)
    assert rows["base", None, "degenerate_rate"] == (0, 2)
    assert rows["student", "reverse", "rouge_l_recall"] == (50, 1)
    assert len(rows) == 24


def test_the_delta_of_an_attack_is_paired_by_question_whatever_the_order() -> None:
    plain = [answer("student", "forget", recall, number=number) for number, recall in enumerate((0.0, 1.0, 0.5))]
    attacked = [
        answer("student", "forget", recall, number=number, attack="reverse")
        for number, recall in ((2, 0.75), (0, 0.25), (1, 1.25))
    ]
    rows = table(*plain, *attacked, answer("student", "retain", 0.1)).filter(pl.col("metric") == "rouge_l_recall")

    # Each question gains 25 points, so the interval is a point; unpaired it would be wide.
    found = {
        (row["file"], row["attack"]): (row["delta"], row["delta_low"], row["delta_high"]) for row in rows.to_dicts()
    }
    assert found["forget", "reverse"] == (25, 25, 25)
    assert found["forget", None] == found["retain", None] == (None, None, None)


def test_paraphrases_are_scored_as_a_file_and_once_more_as_an_attack_on_the_file_that_they_ask_again() -> None:
    answers = [
        answer("student", file, recall, number=number, log_probability=-1.0)
        for file, recalls in (("forget", (0.0, 0.5)), ("reworded", (0.25, 0.75)))
        for number, recall in enumerate(recalls)
    ]
    frame = with_paraphrases(pl.DataFrame(answers, schema=ANSWER_SCHEMA), {"reworded": "forget"})

    scores = score_table(frame)
    recall = scores.filter(pl.col("metric") == "rouge_l_recall")
    found = {(row["file"], row["attack"]): (row["mean"], row["delta"]) for row in recall.to_dicts()}
    assert found == {("forget", None): (25, None), ("reworded", None): (50, None), ("forget", "paraphrase"): (50, 25)}
    # How fluent they are stands at their own file.
    assert scores.filter(pl.col("metric") == "perplexity")["attack"].to_list() == [None, None]


def test_how_fluent_answers_under_attack_are_stands_beside_the_attack_and_not_in_points() -> None:
    scores = table(
        answer("student", "forget", 0.5, log_probability=-1.0),
        answer("student", "forget", 0.5, attack="options", supplies_answer=True, log_probability=-2.0),
    )

    found = scores.filter(pl.col("metric") == "perplexity").to_dicts()
    assert [(row["model"], row["file"], row["attack"], row["supplies_answer"], row["n"]) for row in found] == [
        ("student", "forget", None, False, 1),
        ("student", "forget", "options", False, 1),
    ]
    # e¹ and e².
    assert [row["mean"] for row in found] == pytest.approx([2.71828, 7.38906], rel=1e-5)


def test_a_table_read_back_is_the_table_and_an_older_one_lacks_only_what_is_new() -> None:
    scores = table(answer("student", "forget", 0.0), answer("student", "forget", 0.5, attack="reverse"))

    assert scores_frame(scores.to_dicts()).equals(scores)
    old = [{key: row[key] for key in row if not key.startswith(("delta", "supplies"))} for row in scores.to_dicts()]
    assert scores_frame(old)["mean"].to_list() == scores["mean"].to_list()
    assert scores_frame(old)["delta"].is_null().all()


def test_the_shift_of_a_table_is_of_recall_without_attack() -> None:
    scores = table(
        answer("base", "forget", 0.8),
        answer("student", "forget", 0.1),
        answer("student", "forget", 0.9, attack="reverse"),
        answer("base", "retain", 0.6),
        answer("student", "retain", 0.5),
    )

    assert shift_of(scores)["parts"] == pytest.approx({"forget": 70, "forget_500": None, "retain": -10, "mmlu": None})


def test_the_shift_takes_mmlu_from_choices_shows_own_files_apart_and_says_what_was_missing() -> None:
    scores = table(answer("base", "forget", 0.8), answer("student", "forget", 0.1))
    columns = {"model": pl.String, "file": pl.String, "origin": pl.String, "mean": pl.Float64}
    choices = pl.DataFrame(
        [
            ("base", "mmlu", "file", 40.0), ("student", "mmlu", "file", 38.0),
            ("base", "own", "file", 60.0), ("student", "own", "file", 55.0),
            ("base", "arc", "task", 50.0), ("student", "arc", "task", 20.0),
            ("student", "later", "file", 70.0), ("teacher", "own", "file", 1.0),
        ],
        schema=columns,
        orient="row",
    )  # fmt: skip

    found = shift_of(scores, choices)

    assert found["parts"] == pytest.approx({"forget": 70, "forget_500": None, "retain": None, "mmlu": -2})
    assert found["stand_ins"] == {"own": {"stands_for": "mmlu", "part": -5.0}}
    assert found["reasons"] == {
        "forget_500": "no question file named forget_500",
        "retain": "no question file named retain",
    }
    assert shift_of(table(answer("base", "other", 1.0)))["reasons"] == {
        "forget": "no question file named forget",
        "forget_500": "no question file named forget_500",
        "retain": "no question file named retain",
        "mmlu": "no multiple-choice task or file named mmlu was scored",
    }
    assert shift_of(scores)["stand_ins"] == {}


def test_a_metric_that_an_answer_lacks_is_left_out_of_its_group() -> None:
    older = answer("base", "forget", 0.5, leaked=None, right=None)

    assert "leak_rate" not in table(older)["metric"]
    assert "leak_rate" in table(older, answer("student", "forget", 0.5)).filter(pl.col("model") == "student")["metric"]


def test_scores_stand_in_the_order_of_the_answers_and_of_the_metrics() -> None:
    # Neither by the alphabet nor by size.
    scores = table(
        answer("student", "retain", 0.1), answer("base", "retain", 0.9),
        answer("student", "forget", 0.2), answer("student", "forget", 0.3, attack="reverse"),
    )  # fmt: skip

    assert scores.select("model", "file", "attack").unique(maintain_order=True).rows() == [
        ("student", "retain", None), ("base", "retain", None),
        ("student", "forget", None), ("student", "forget", "reverse"),
    ]  # fmt: skip
    assert scores["metric"].to_list()[:8] == [
        "rouge_l_recall", "rouge_l_f1", "exact_match", "answer_in_full", "leak_rate", "right_rate", "refusal_rate",
        "degenerate_rate",
    ]  # fmt: skip
