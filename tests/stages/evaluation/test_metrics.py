"""Means with intervals."""

import pytest

from stages.evaluation.metrics import mean_with_interval


def test_an_interval_holds_its_mean_and_narrows_with_the_number_of_questions() -> None:
    few, many = mean_with_interval([0, 100] * 10), mean_with_interval([0, 100] * 1000)

    for found in (few, many):
        assert found.mean == 50
        assert found.low is not None and found.high is not None and found.low < 50 < found.high
    # Half-width of a share of a half: 1.96 × 50 / √n.
    assert few.high - 50 == pytest.approx(1.96 * 50 / 20**0.5, rel=0.2)  # type: ignore[operator]
    assert many.high - 50 == pytest.approx(1.96 * 50 / 2000**0.5, rel=0.2)  # type: ignore[operator]


def test_the_same_values_have_the_same_interval() -> None:
    assert mean_with_interval([1, 2, 3, 9]) == mean_with_interval([1, 2, 3, 9])


def test_equal_values_have_a_point_for_an_interval_and_one_value_has_none() -> None:
    equal, single = mean_with_interval([100.0, 100.0, 100.0]), mean_with_interval([7.0])

    assert (equal.low, equal.high) == (100, 100)
    assert (single.mean, single.low, single.high, single.n) == (7, None, None, 1)


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="over nothing"):
        mean_with_interval([])
