"""Yes or no on every question in; shares and paired differences with 95 % intervals out, in points.

Questions about one entity are not independent: each belongs to a group, and groups are what varies. Nothing is resampled, and
no interval shrinks to a point because all answers are alike.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy import stats

from stages.evaluation.metrics import Interval

POINTS = 100.0
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
# Of an exact sign test: so many questions must change, all in one direction, before a change can be shown (2 × 0.5⁶ < 0.05).
FEWEST_CHANGES = 6


def share(hits: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Share of hits, with its exact interval: Clopper–Pearson where every group has one question.

    Where groups have several, of the effective number of questions: n divided by the design effect; at 0 and at 100, and
    of one group, where that cannot be estimated, of the number of groups. Raises ValueError on no questions.
    Source: Korn and Graubard, Survey Methodology 24 (1998), for the effective number.
    """
    if not hits:
        raise ValueError("a share of nothing is not a figure")
    n, found = len(hits), sum(hits)
    clusters = len(set(groups))
    effective: float = n
    if clusters < n:
        effective = clusters if found in (0, n) or clusters == 1 else n / max(_design_effect(hits, groups), 1.0)
    at = found / n * effective
    low = stats.beta.ppf(TAIL, at, effective - at + 1) if found else 0.0
    high = stats.beta.ppf(1 - TAIL, at + 1, effective - at) if found < n else 1.0
    return Interval(POINTS * found / n, POINTS * float(low), POINTS * float(high), n)


def paired_difference(one: Sequence[bool], other: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Share of hits of `one` less that of `other` on the same questions; no interval where there is one group only.

    Half a question is added to each of the four cells of the table one × other, so that two models which agree everywhere
    still have an interval; the variance is taken over groups. Raises ValueError on no questions.
    Source: Agresti and Min, Statistics in Medicine 24 (2005), section 4, for the added cells.
    """
    if not one:
        raise ValueError("a difference over nothing is not a figure")
    n, clusters = len(one), len(set(groups))
    changes = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    mean = float(changes.mean())
    if clusters < 2:
        return Interval(POINTS * mean, None, None, n)
    # The added cells hold one question that changes for the better and worse by halves, and one that does not change.
    centre = float(changes.sum()) / (n + 2)
    deviation = _summed(changes - centre, groups)
    error = float(np.sqrt((deviation**2).sum() + 1)) / (n + 2)
    reach = float(stats.t.ppf(1 - TAIL, clusters - 1)) * error
    return Interval(
        POINTS * mean, POINTS * max(min(centre - reach, mean), -1), POINTS * min(max(centre + reach, mean), 1), n
    )


def smallest_rise(n: int) -> float | None:
    """The smallest change in points that n questions can show; None where they can show none."""
    return POINTS * FEWEST_CHANGES / n if n >= FEWEST_CHANGES else None


def enough(change: Interval, margin: float) -> int | None:
    """About how many questions would show no rise of over `margin` points if answers changed as often among them.

    change: of `paired_difference`, whose interval narrows with the square root of the questions. None if it has no interval,
    or where no number would do, because what was found lies at the margin or above.
    """
    if change.high is None or change.mean >= margin:
        return None
    return max(change.n, ceil(change.n * ((change.high - change.mean) / (margin - change.mean)) ** 2))


def _design_effect(hits: Sequence[bool], groups: Sequence[str]) -> float:
    """How much larger the variance of the mean is than if questions were independent."""
    values = np.asarray(hits, dtype=np.float64)
    mean = values.mean()
    clusters = len(set(groups))
    between = (_summed(values - mean, groups) ** 2).sum() * clusters / (clusters - 1)
    return float(between / (len(values) * mean * (1 - mean)))


def _summed(values_N: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Sums by group, [groups]."""
    _, places = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(places, weights=values_N)
