"""Intervals against values from tables and from the formulas worked out by hand."""

from math import sqrt

import pytest
from scipy import stats

from stages.evaluation.intervals import enough, paired_difference, share, smallest_rise
from stages.evaluation.metrics import Interval


def alone(n: int) -> list[str]:
    return [str(number) for number in range(n)]


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Clopper and Pearson's, from tables; 1 - 0.025 ** (1 / 20) is the first.
    [(0, 20, 0.0, 16.84), (20, 20, 83.16, 100.0), (3, 24, 2.66, 32.36), (1, 2, 1.26, 98.74)],
)
def test_a_share_of_independent_questions_has_its_exact_interval(hits: int, n: int, low: float, high: float) -> None:
    found = share([number < hits for number in range(n)], alone(n))

    assert (found.mean, found.n) == (pytest.approx(100 * hits / n), n)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_questions_that_are_all_alike_count_by_their_entities() -> None:
    ten_on_each_of_two = ["a"] * 10 + ["b"] * 10

    # Nothing of two entities: 1 - 0.025 ** (1 / 2).
    assert share([False] * 20, ten_on_each_of_two).high == pytest.approx(84.19, abs=0.01)
    assert share([True] * 20, ten_on_each_of_two).low == pytest.approx(15.81, abs=0.01)


def test_entities_that_are_known_whole_or_not_at_all_widen_the_interval_to_their_number() -> None:
    """Four entities of five questions, two of them known: a design effect of 4 / 3 × 5, so three questions' worth."""
    groups = [name for name in "abcd" for _ in range(5)]
    found = share([name in "ab" for name in groups], groups)

    low, high = stats.beta.ppf(0.025, 1.5, 2.5), stats.beta.ppf(0.975, 2.5, 1.5)
    assert (found.low, found.high) == (pytest.approx(100 * low), pytest.approx(100 * high))


def test_a_paired_difference_adds_half_a_question_to_each_cell() -> None:
    """Of 20 questions two are gained and six lost: −4 / 22, and (8 + 1 − less) of squares."""
    one = [True] * 2 + [False] * 6 + [True] * 12
    other = [False] * 2 + [True] * 6 + [True] * 12
    found = paired_difference(one, other, alone(20))

    centre = -4 / 22
    squares = 2 * (1 - centre) ** 2 + 6 * (-1 - centre) ** 2 + 12 * centre**2 + 1
    reach = stats.t.ppf(0.975, 19) * sqrt(squares) / 22
    assert found.mean == pytest.approx(-20)
    assert found.low == pytest.approx(100 * (centre - reach))
    assert found.high == pytest.approx(100 * (centre + reach))


def test_models_that_agree_everywhere_still_have_an_interval_which_shrinks_with_n() -> None:
    few, many = (paired_difference([True] * n, [True] * n, alone(n)) for n in (20, 200))

    assert few.high == pytest.approx(100 * stats.t.ppf(0.975, 19) / 22)
    assert many.high == pytest.approx(100 * stats.t.ppf(0.975, 199) / 202)
    assert (few.mean, few.low) == (0, -few.high)


def test_changes_of_one_entity_are_one_change() -> None:
    one, other = [True] * 10 + [False] * 10, [False] * 20
    together = paired_difference(one, other, ["a"] * 10 + alone(10))
    apart = paired_difference(one, other, alone(20))

    assert together.low is not None and apart.low is not None
    assert together.low < 0 < apart.low


def test_one_entity_has_no_interval_and_no_question_no_figure() -> None:
    found = paired_difference([True, False], [False, False], ["a", "a"])
    assert (found.mean, found.low, found.high) == (50, None, None)
    for nothing in (lambda: share([], []), lambda: paired_difference([], [], [])):
        with pytest.raises(ValueError, match="nothing"):
            nothing()


def test_the_smallest_rise_is_six_questions_of_one_direction() -> None:
    # Two-sided: 2 × 0.5 ** 6 = 0.031, and of five questions 0.0625.
    assert smallest_rise(24) == 25
    assert smallest_rise(5) is None


def test_two_entities_have_an_interval_and_no_interval_leaves_what_is_possible() -> None:
    assert paired_difference([True, True], [False, True], ["a", "b"]).low is not None
    assert paired_difference([True] * 3, [False] * 3, alone(3)).high == 100
    assert paired_difference([False] * 3, [True] * 3, alone(3)).low == -100


def test_entities_that_are_known_by_halves_count_no_more_than_their_questions() -> None:
    """Their design effect is nothing, and the interval that of eight independent questions."""
    found = share([True, False] * 4, [name for name in "abcd" for _ in range(2)])

    assert (found.low, found.high) == (pytest.approx(15.70, abs=0.01), pytest.approx(84.30, abs=0.01))


def test_one_entity_counts_once() -> None:
    found = share([True, False], ["a", "a"])

    assert found.low == pytest.approx(100 * stats.beta.ppf(0.025, 0.5, 1.5))
    assert found.high == pytest.approx(100 * stats.beta.ppf(0.975, 1.5, 0.5))


def test_half_the_reach_takes_four_times_the_questions() -> None:
    assert enough(Interval(1.0, -3.0, 5.0, 60), 3.0) == 240
    # Reached already; a rise over the margin no number of questions rules out; without an interval nothing is known.
    assert enough(Interval(0.0, -1.0, 1.0, 60), 5.0) == 60
    assert enough(Interval(5.0, -1.0, 11.0, 60), 5.0) is None
    assert enough(Interval(1.0, None, None, 1), 5.0) is None


def test_six_questions_can_show_one_thing_only() -> None:
    assert smallest_rise(6) == 100
