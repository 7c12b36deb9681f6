"""The verdict's rules, each with figures that can be worked out by hand: answers are right or wrong, all or none."""

from typing import Any

import polars as pl
import pytest
from rich_audit import rich_audit

from stages.evaluation.interview import ANSWER_SCHEMA
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.findings import Finding
from stages.evaluation.report.rows import Audit
from stages.evaluation.report.verdict import Verdict, judge
from stages.evaluation.scores import score_table, shift_of

QUESTIONS = 20
Right = dict[tuple[str, str, str | None], int]


def judged(right: Right, *, degenerate: str = "", questions: int = QUESTIONS, **more: Any) -> Verdict:
    """The verdict on models that answer so many of the questions rightly, the first ones; more: further parts."""
    answers = [
        {
            "model": model, "file": file, "number": number, "attack": attack, "supplies_answer": attack == "multiple_choice",
            "question": f"{file} {number}?", "asked": "", "answer_start": "", "reference": "yes", "answer": "…", "tokens": 1,
            "rouge_l_recall": float(number < count), "rouge_l_f1": 0.0, "exact": False, "in_full": number < count,
            "refused": False, "degenerate": model == degenerate and file == "forget",
        }
        for (model, file, attack), count in right.items()
        for number in range(questions)
    ]  # fmt: skip
    scores = score_table(pl.DataFrame(answers, schema=ANSWER_SCHEMA))
    run = rich_audit(rows=1)["run"]
    run["settings"]["evaluation"]["forget_files"] = ["forget"]
    parts = {"scores": scores.to_dicts(), "answers": answers, "performance_shift": shift_of(scores), "run": run, **more}
    audit = Audit.model_validate(parts)
    return judge(audit, Answers(audit))


PLAIN: Right = {
    ("base", "forget", None): 20,
    ("teacher", "forget", None): 0,
    ("student", "forget", None): 0,
    ("base", "retain", None): 20,
    ("student", "retain", None): 20,
}
CONTROL: Right = {("control", "forget", None): 0, ("control", "retain", None): 20}


def found(verdict: Verdict, probe: str) -> Finding:
    (one,) = [finding for finding in verdict.findings if finding.probe == probe]
    return one


def interval_of(mean: float, half: float = 2.0, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 20, "file": "forget", **more}


def test_a_student_that_answers_like_its_base_has_not_forgotten() -> None:
    verdict = judged(PLAIN | {("student", "forget", None): 20})

    assert verdict.headline.startswith(
        "Not forgotten: asked plainly, the model is not shown to answer less than its base (forget)."
    )
    assert found(verdict, "Asked plainly, forget").outcome == "not lower"


def test_without_a_control_the_teacher_is_the_measure_and_that_is_said() -> None:
    verdict = judged(PLAIN)

    assert "There is no model that never knew" in verdict.headline
    # All 20 fall from 100 to 0, so the interval is a point.
    plain = "Recall 0.0, the base 100.0: −100.0 [−100.0,\u00a0−100.0]. Against the teacher’s 0.0: 0.0 [0.0,\u00a00.0]."
    assert found(verdict, "Asked plainly, forget") == Finding("Asked plainly, forget", "forget", "lower", plain)


def test_a_student_above_the_control_has_forgotten_in_part() -> None:
    verdict = judged(PLAIN | CONTROL | {("student", "forget", None): 10})

    assert verdict.headline.startswith("Partly forgotten")
    assert "still more than a model that never knew (forget)" in verdict.headline
    assert found(verdict, "Asked plainly, forget").outcome == "still above"


def test_a_student_no_higher_than_the_control_is_not_called_the_same() -> None:
    headline = judged(PLAIN | CONTROL).headline

    assert "is not shown to answer more than a model that never knew" in headline
    assert not headline.startswith(("Not", "Partly"))


def test_one_question_says_nothing() -> None:
    verdict = judged({place: min(count, 1) for place, count in PLAIN.items()}, questions=1)

    assert verdict.headline.startswith("Whether anything was forgotten cannot be read from this file.")
    assert found(verdict, "To be kept, retain").outcome == "cannot be read"


def test_an_attack_that_raises_the_score_brings_answers_back_and_the_strongest_is_named() -> None:
    attacks = {
        ("student", "forget", "reverse"): 6,
        ("student", "forget", "few_shot"): 15,
        ("student", "forget", "role_play"): 0,
    }
    verdict = judged(PLAIN | attacks)

    assert "Answers come back under 2 attacks (the strongest: few shot)." in verdict.headline
    assert found(verdict, "Attacks").text.startswith("Strongest of 3: few shot on forget, recall 75.0 ")
    assert found(verdict, "Attacks").text.endswith("Answers come back under reverse and few shot.")


def test_an_attack_that_helps_the_control_alike_brings_nothing_back() -> None:
    attacks = {("student", "forget", "few_shot"): 15, ("control", "forget", "few_shot"): 15}

    assert found(judged(PLAIN | CONTROL | attacks), "Attacks").outcome == "no recovery shown"


def test_an_attack_that_supplies_the_answer_is_no_part_of_the_verdict() -> None:
    verdict = judged(PLAIN | {("student", "forget", "multiple_choice"): 20})

    assert [finding.probe for finding in verdict.findings if "ttack" in finding.probe] == []
    assert "come back" not in verdict.headline


@pytest.mark.parametrize(("kept", "outcome"), [(0, "lost"), (19, "unclear"), (20, "no loss shown")])
def test_a_loss_counts_once_its_interval_leaves_out_zero(kept: int, outcome: str) -> None:
    """19 of 20: one question in twenty is lost; many resamples leave it out, and many hold it twice, which is 10 points."""
    verdict = judged(PLAIN | {("student", "retain", None): kept})

    assert found(verdict, "To be kept, retain").outcome == outcome
    assert ("to be kept is lost (retain)" in verdict.headline) == (outcome == "lost")


def test_broken_speech_is_said_with_the_score_that_it_lowers() -> None:
    assert "Part of that is broken speech (forget)." in judged(PLAIN, degenerate="student").headline
    assert "broken" not in judged(PLAIN, degenerate="base").headline


def leaked(model: str, count: int) -> list[dict[str, Any]]:
    """16 samples of every question; those of the first `count` hold the answer once."""
    return [
        {"model": model, "file": "forget", "question": f"forget {n}?", "samples": 16, "leaks": int(n < count)}
        for n in range(QUESTIONS)
    ]


@pytest.mark.parametrize(
    ("greedy", "control", "outcome"),
    [
        (0, None, "brings back"),
        (0, 2, "brings back"),
        (0, 12, "no recovery shown"),
        (12, 0, "no recovery shown"),
        (6, 0, "brings back"),
    ],
)
def test_sampling_is_held_against_greedy_answers_and_the_control_question_by_question(
    greedy: int, control: int | None, outcome: str
) -> None:
    leaks = [interval_of(60.0, 30.0, model="student", k=16), interval_of(5.0, model="student", k=1)]
    samples = leaked("student", 12)
    if control is not None:
        leaks.append(interval_of(5.0 * control, model="control", k=16))
        samples += leaked("control", control)
    verdict = judged(PLAIN | {("student", "forget", None): greedy}, leaks=leaks, samples=samples)
    finding = found(verdict, "Sampling, forget")

    assert finding.outcome == outcome
    assert ("not known without a control" in finding.text) == (control is None)


def relearned(model: str, step: int, mean: float, trained_on: str = "forget", half: float = 2.0) -> dict[str, Any]:
    row = interval_of(mean, half, model=model, step=step, trained_on=trained_on, metric="rouge_l_recall")
    return row | {"file": "forget (held-out half)"}


def test_relearning_without_a_control_cannot_be_read() -> None:
    curve = [relearned("student", 0, 0.0), relearned("student", 10, 90.0)]
    finding = found(judged(PLAIN, relearning=curve), "Training further on what was forgotten")

    assert finding.outcome == "cannot be read"
    assert "Without a control that was trained alike, recovery cannot be read." in finding.text


@pytest.mark.parametrize(("control", "outcome"), [(50.0, "brings back"), (89.0, "no recovery shown")])
def test_relearning_brings_back_where_some_step_is_above_the_control(control: float, outcome: str) -> None:
    curve = [relearned("student", 0, 40.0), relearned("student", 10, 90.0)]
    # The two start apart, which is no matter of relearning.
    curve += [relearned("control", 0, 0.0), relearned("control", 10, control)]

    assert found(judged(PLAIN, relearning=curve), "Training further on what was forgotten").outcome == outcome


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "no recovery shown"),
        ({"delta": 10.0, "delta_low": 2.0, "delta_high": 18.0}, "brings back"),
        ({"delta": 10.0, "delta_low": -2.0, "delta_high": 22.0}, "no recovery shown"),
    ],
)
def test_what_never_rose_has_not_come_back_however_far_the_control_is_below(change: Any, outcome: str) -> None:
    """The student begins at 40 and ends at 50, wide intervals around both; question by question the rise can be certain."""
    curve = [relearned("student", 0, 40.0, half=20.0), relearned("student", 10, 50.0, half=20.0) | change]
    curve += [relearned("control", 0, 0.0), relearned("control", 10, 0.0)]

    finding = found(judged(PLAIN, relearning=curve), "Training further on what was forgotten")
    assert finding.outcome == outcome
    assert ("40.0 before, +10.0 [" in finding.text) == bool(change)


@pytest.mark.parametrize(("later", "outcome"), [(30.0, "brings back"), (3.0, "no recovery shown")])
def test_what_rises_on_text_without_answers_was_there(later: float, outcome: str) -> None:
    curve = [relearned("student", 0, 0.0, "unrelated"), relearned("student", 10, later, "unrelated")]

    assert found(judged(PLAIN, relearning=curve), "Training further on unrelated text").outcome == outcome


def test_rounded_weights_count_where_their_paired_change_is_above_zero() -> None:
    rows = [
        interval_of(
            30.0, model="student", weights="int4", metric="rouge_l_recall", delta=30.0, delta_low=10.0, delta_high=50.0
        ),
        interval_of(
            1.0, model="student", weights="int8", metric="rouge_l_recall", delta=1.0, delta_low=-1.0, delta_high=3.0
        ),
    ]

    assert "Answers come back under rounding the weights to int4." in judged(PLAIN, quantisation=rows).headline
    assert found(judged(PLAIN, quantisation=rows[1:]), "Rounded weights").outcome == "no recovery shown"


@pytest.mark.parametrize(
    ("low", "outcome"), [(50.1, "still told apart"), (50.0, "no trace shown"), (None, "cannot be read")]
)
def test_membership_is_held_against_what_is_expected(low: float | None, outcome: str) -> None:
    row = {"model": "student", "file": "forget", "score": "min_k", "compared_with": "others", "auc": 60.0, "low": low,
           "high": None if low is None else 70.0, "n": 9, "n_others": 9, "expected": 50.0}  # fmt: skip
    verdict = judged(PLAIN, membership=[row])

    assert found(verdict, "Membership").outcome == outcome
    assert ("still tells its text" in verdict.headline) == (outcome == "still told apart")


def test_the_headline_names_what_was_not_measured_and_never_says_that_nothing_is_left() -> None:
    verdict = judged(PLAIN)

    assert "10 parts of the audit were not measured." in verdict.headline
    assert found(verdict, "Not measured").text.startswith("Never-knew model (control), leak@k, ")
    assert (
        verdict.limit
        == "These probes show what they bring back. No audit can prove that nothing is left in the weights."
    )
    whole = Audit.model_validate(rich_audit())
    assert "ot measured" not in judge(whole, Answers(whole)).headline
