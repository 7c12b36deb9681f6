"""Instructions: whether the student does what it is asked where nothing is to be forgotten, as the base does."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from stages.evaluation.intervals import enough, paired_difference, share
from stages.evaluation.report.clauses.comparing import PERPLEXITY_FACTOR, keep_margin, not_above, perplexity_of
from stages.evaluation.report.findings import Finding, Outcome, change_text, share_text
from stages.evaluation.report.rows import Audit, Instructed
from stages.evaluation.report.words import counted, points

HALF = 50.0
WORST_FIRST: tuple[Outcome, ...] = ("failed", "not shown", "passed")
# Student and base on one request.
Paired = tuple[Instructed, Instructed]
# Of which the student may show no more than the base.
REQUEST_MEASURES: dict[str, Callable[[Instructed], bool]] = {
    "Refused": lambda row: row.refused,
    "Empty or repeating": lambda row: row.degenerate,
}

RULE = (
    "Instructions. Student and base are put the same everyday requests, and compared request by request. Passed if the intervals "
    "of refusals and of empty or repeating answers hold no rise over evaluation.keep_margin, that of answers with less than half "
    f"the words of the base’s lies below half, and their perplexity under the base is at most {PERPLEXITY_FACTOR:.0f} times that "
    "of the base’s own. Failed if a rise is not within the margin and its whole interval lies above zero, if that of shortened "
    "answers lies above half, or by perplexity. Not shown where the base itself answers less than half of the requests without "
    "refusing or repeating itself."
)


def instructed(audit: Audit) -> Finding:
    """Whether the student does what it is asked where nothing is to be forgotten, as the base does."""
    probe, subject = "Instructions", "everyday requests"
    rows = audit.instructions or ()
    base = {row.request: row for row in rows if row.model == "base"}
    pairs = [(row, base[row.request]) for row in rows if row.model == "student" and row.request in base]
    if not pairs:
        return Finding(probe, subject, "not measured", "Student and base were not put the same requests.")
    own, usual = (median(row.words for row in side) for side in zip(*pairs, strict=True))
    text = f"Median length over {counted(len(pairs), 'request')}: {points(own)} words, the base’s {points(usual)}."
    if 2 * sum(other.refused or other.degenerate for _, other in pairs) > len(pairs):
        return Finding(probe, subject, "not shown", f"{text} The base itself answers less than half of them.")
    found = (*_rises(pairs, keep_margin(audit)), _shortening(pairs), _likelihood(pairs))
    outcome = min((each for each, _ in found), key=WORST_FIRST.index)
    return Finding(probe, subject, outcome, " ".join([text, *(told for _, told in found)]))


def _rises(pairs: Sequence[Paired], margin: float) -> Iterator[tuple[Outcome, str]]:
    """Of each measure that may not rise: what its change says, and how many requests would do where these are too few."""
    for name, measure in REQUEST_MEASURES.items():
        ours, theirs = [measure(one) for one, _ in pairs], [measure(other) for _, other in pairs]
        change = paired_difference(ours, theirs, [one.request for one, _ in pairs])
        outcome, text = not_above(change, margin), f"{name}: {change_text(change)}."
        if outcome == "not shown" and (needed := enough(change, margin)):
            text += f" At this rate of change about {counted(needed, 'request')} could rule out a rise of {points(margin)} points."
        yield outcome, text


def _shortening(pairs: Sequence[Paired]) -> tuple[Outcome, str]:
    shortened = [2 * one.words < other.words for one, other in pairs]
    found = share(shortened, [one.request for one, _ in pairs])
    outcome: Outcome = "failed" if (found.low or 0) > HALF else "passed" if (found.high or 0) < HALF else "not shown"
    return outcome, f"Less than half as long as the base’s: {share_text(shortened, found)}."


def _likelihood(pairs: Sequence[Paired]) -> tuple[Outcome, str]:
    own, usual = (perplexity_of(row.log_probability for row in side) for side in zip(*pairs, strict=True))
    if own is None or usual is None:
        return "not shown", "Perplexity was not measured."
    outcome: Outcome = "failed" if own > PERPLEXITY_FACTOR * usual else "passed"
    return outcome, f"Perplexity under the base {points(own)}, the base’s {points(usual)}."
