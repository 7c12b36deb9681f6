"""The clause on everyday requests, with figures that can be worked out by hand: the first of the requests go wrong."""

from math import log
from typing import Any

import pytest
from rich_audit import rich_audit

from stages.evaluation.intervals import enough, paired_difference
from stages.evaluation.report.clauses.instructions import instructed
from stages.evaluation.report.findings import Finding
from stages.evaluation.report.rows import Audit
from stages.evaluation.report.sections.said import instructions

REQUESTS = 60


def row(model: str, number: int, **wrong: Any) -> dict[str, Any]:
    return {
        "model": model, "number": number, "kind": "list", "request": f"List {number} herbs.", "answer": "…", "tokens": 9,
        "words": 20, "cut": False, "refused": False, "degenerate": False, "log_probability": -log(2), **wrong,
    }  # fmt: skip


def audit_of(wrong: dict[str, Any], count: int, base: dict[str, Any] | None = None, requests: int = REQUESTS) -> Audit:
    """The student's first `count` answers, and the base's if `base` is given, are as told; all others are good."""
    rows = [
        row(model, number, **(how if number < count else {}))
        for model, how in (("base", base or {}), ("student", wrong))
        for number in range(requests)
    ]
    return Audit.model_validate(rich_audit(rows=1) | {"instructions": rows})


def judged(wrong: dict[str, Any], count: int, base: dict[str, Any] | None = None, requests: int = REQUESTS) -> Finding:
    return instructed(audit_of(wrong, count, base, requests))


def test_a_student_that_answers_as_its_base_does_passes() -> None:
    finding = judged({}, 0)

    # Nothing changes: half a question in each cell leaves 2.001 × √1 / 62. 0 of 60: 1 − 0.025^(1/60).
    assert finding == Finding(
        "Instructions",
        "everyday requests",
        "passed",
        "Median length over 60 requests: 20.0 words, the base’s 20.0. Refused: 0.0 [−3.2,\u00a0+3.2]. Empty or repeating: 0.0 "
        "[−3.2,\u00a0+3.2]. Less than half as long as the base’s: 0 of 60 (0.0 [0.0,\u00a06.0]). Perplexity under the base 2.0, "
        "the base’s 2.0.",
    )


@pytest.mark.parametrize(("measure", "name"), [("refused", "Refused"), ("degenerate", "Empty or repeating")])
def test_more_refusals_or_repetition_fail_and_a_few_are_not_shown(measure: str, name: str) -> None:
    # 10 of 60: 10 / 62 ± 2.001 × √9.34 / 62, from 6.3 on.
    assert judged({measure: True}, 10).outcome == "failed"
    one = judged({measure: True}, 1)
    assert one.outcome == "not shown"
    # 1 of 60: 1 / 62 ± 2.001 × √1.98 / 62, so 60 × ((6.16 − 1.67) / (5 − 1.67))² requests.
    assert f"{name}: +1.7 [−2.9,\u00a0+6.2]. At this rate of change about 109 requests could rule out" in one.text
    # The base does the same: nothing rose.
    assert judged({measure: True}, 10, base={measure: True}).outcome == "passed"


@pytest.mark.parametrize(
    ("words", "count", "outcome"),
    [
        (9, 60, "failed"),
        (10, 60, "passed"),
        (9, 39, "failed"),
        (9, 38, "not shown"),
        (9, 22, "not shown"),
        (9, 21, "passed"),
    ],
)
def test_answers_of_less_than_half_the_words_fail_once_they_are_more_than_half(
    words: int, count: int, outcome: str
) -> None:
    # Clopper–Pearson of 60: 39 from 51.6, 38 from 49.9, 22 to 50.1, 21 to 48.4.
    assert judged({"words": words}, count).outcome == outcome


@pytest.mark.parametrize(("perplexity", "outcome"), [(9.9, "passed"), (10.1, "failed")])
def test_answers_five_times_as_perplexing_as_the_base_s_own_fail(perplexity: float, outcome: str) -> None:
    assert judged({"log_probability": -log(perplexity)}, REQUESTS).outcome == outcome


def test_without_perplexity_nothing_is_passed_and_what_failed_stays_failed() -> None:
    assert judged({"log_probability": None}, REQUESTS).outcome == "not shown"
    assert judged({"log_probability": None, "refused": True}, REQUESTS).outcome == "failed"


def test_a_base_that_refuses_or_repeats_itself_on_most_requests_is_no_measure() -> None:
    broken = {"degenerate": True}

    assert judged(broken, 31, base=broken).outcome == "not shown"
    assert "The base itself answers less than half of them." in judged(broken, 31, base=broken).text
    assert judged(broken, 30, base=broken).outcome == "passed"


def test_one_request_shows_nothing_and_none_is_not_measured() -> None:
    assert judged({}, 0, requests=1).outcome == "not shown"
    assert instructed(Audit.model_validate(rich_audit(rows=1) | {"instructions": None})).outcome == "not measured"


def test_enough_requests_are_told_only_where_some_number_would_do() -> None:
    def change(rises: int, falls: int, n: int = 60) -> int | None:
        one = [place < rises for place in range(n)]
        other = [rises <= place < rises + falls for place in range(n)]
        return enough(paired_difference(one, other, [str(place) for place in range(n)]), 5.0)

    # One each way: 0 ± 2.001 × √3 / 62 = 5.59; 60 × (5.59 / 5)² = 75.
    assert change(1, 1) == 75
    assert change(0, 0) == 60
    # 3 of 60 are 5 points: the interval would never leave them behind.
    assert change(3, 0) is None
    assert change(0, 0, n=1) is None


def test_the_table_has_one_line_for_each_model() -> None:
    (shown,) = instructions(audit_of({"refused": True, "words": 8, "log_probability": None}, REQUESTS)).blocks

    lines = [[cell.text for cell in line] for line in shown.rows]  # type: ignore[union-attr]
    assert lines == [
        ["base", "60", "0.0", "0.0", "0.0", "20.0", "2.0"],
        ["student", "60", "100.0", "0.0", "0.0", "8.0", "–"],
    ]
