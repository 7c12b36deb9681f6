"""Many figures in, a mean with its interval out. What the figures of one answer are is told in `measures`."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BOOTSTRAP_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval (percentile); low and high are None where n < 2."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_with_interval(values: Sequence[float]) -> Interval:
    """Mean over questions, resampled 2 000 times with a fixed seed. Raises ValueError on no values."""
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        raise ValueError("a mean over nothing is not a score")
    mean = float(data.mean())
    if len(data) < 2:
        return Interval(mean, None, None, len(data))
    with warnings.catch_warnings():
        # All values equal: the interval is that value, and scipy says so in a warning.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap((data,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", rng=0)
    interval = found.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), len(data))
