"""The tables that people read, worked out by hand from a few scores."""

from typing import Any

from pipeline.tables import markdown_scores

SHIFT = {"value": None, "parts": {"forget": 5.0}, "sum_of_measured": 5.0, "not_measured": ["mmlu"]}


def score(model: str, mean: float, **more: Any) -> dict[str, Any]:
    own = {"model": model, "file": "forget", "attack": None, "metric": "rouge_l_recall", "n": 9}
    return {**own, "mean": mean, "low": mean - 4, "high": mean + 4, **more}


def lines_of(**parts: Any) -> list[str]:
    evaluation = {"scores": [score("base", 50.0), score("student", 7.25)], "performance_shift": SHIFT, **parts}
    return markdown_scores(evaluation, ["forget"]).splitlines()


def test_only_models_that_are_there_have_a_column() -> None:
    assert "| questions | metric | n | base | DUET (student) |" in lines_of()
    assert "| forget | ROUGE-L recall ↓ | 9 | 50.0 [46, 54] | 7.2 [3, 11] |" in lines_of()
    with_control = lines_of(scores=[score("student", 1.0), score("control", 2.0)])
    assert "| questions | metric | n | DUET (student) | never knew (control) |" in with_control


def test_files_keep_their_order_and_metrics_stand_in_the_order_of_their_titles() -> None:
    scores = [score("base", 1.0, metric="degenerate_rate"), score("base", 2.0), score("base", 3.0, file="abc")]
    rows = [line for line in lines_of(scores=scores) if line.startswith(("| forget", "| abc"))]

    assert [row.split(" | ")[:2] for row in rows] == [
        ["| forget", "ROUGE-L recall ↓"],
        ["| forget", "degenerate answers ↓"],
        ["| abc", "ROUGE-L recall ↑"],
    ]


def test_attacks_show_what_they_change_and_those_that_supply_the_answer_stand_apart() -> None:
    delta = {"delta": 3.0, "delta_low": -1.0, "delta_high": 7.0}
    attacked = [
        score("student", 10.0, attack="reverse", supplies_answer=False, **delta),
        score("student", 60.0, attack="multiple_choice", supplies_answer=True, **delta),
    ]
    lines = lines_of(scores=[score("student", 7.0), *attacked])

    reverse = lines.index("| forget | reverse | 9 | 10.0 [6, 14], Δ +3.0 [-1, +7] |")
    chosen = next(place for place, line in enumerate(lines) if "multiple_choice" in line)
    assert reverse < next(place for place, line in enumerate(lines) if "supply the answer" in line) < chosen


def test_what_is_broken_under_attack_and_what_rounding_and_training_change_is_shown() -> None:
    change = {"delta": 3.0, "delta_low": 1.0, "delta_high": 5.0}
    broken = score("student", 75.0, attack="reverse", metric="degenerate_rate", supplies_answer=False)
    lines = lines_of(
        scores=[score("student", 7.0), broken],
        quantisation=[score("student", 10.0, weights="int8", **change)],
        relearning=[score("student", 12.0, trained_on="forget", step=8, **change)],
    )

    assert "| forget | reverse | 9 | 75.0 [71, 79] |" in lines
    assert "| forget | int8 | 9 | 10.0 [6, 14], Δ +3.0 [+1, +5] |" in lines
    assert "| forget | forget | 8 | 9 | 12.0 [8, 16], Δ +3.0 [+1, +5] |" in lines


def test_parts_of_an_audit_have_tables_and_a_part_that_is_null_has_its_reason() -> None:
    curve = [score("student", 5.0 + step, trained_on="forget", step=step) for step in (0, 8)]
    member = {"model": "student", "file": "forget", "score": "loss", "compared_with": "swapped answers"}
    lines = lines_of(
        quantisation=None,
        relearning=[*curve, score("student", 1.0, trained_on="forget", step=0, metric="answer_in_full")],
        membership=[{**member, "auc": 61.0, "low": 55.0, "high": 67.0, "n": 9}],
        not_measured={"quantisation": "no room on the disk"},
    )

    assert "Not measured: quantisation (no room on the disk)." in lines
    assert "| forget | forget | 8 | 9 | – | 13.0 [9, 17] |" in lines
    assert "| forget | loss | swapped answers | 9 | – | 61.0 [55, 67] |" in lines
    assert sum("| forget | forget |" in line for line in lines) == 2, "one metric only"
