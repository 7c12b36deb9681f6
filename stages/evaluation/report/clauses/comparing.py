"""What the clauses share: student and base on the same questions, margins, and what an interval says of one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp
from statistics import fmean

from stages.evaluation.intervals import paired_difference
from stages.evaluation.metrics import Interval
from stages.evaluation.report.findings import Outcome
from stages.evaluation.report.rows import Answer, Audit, Role

# Of evaluations made before they could be set.
FORGET_MARGIN = 10.0
KEEP_MARGIN = 5.0
PERPLEXITY_FACTOR = 5.0
SAME_QUESTIONS = "Student and base did not answer the same questions."
Pair = tuple[Answer, Answer]


def forget_margin(audit: Audit) -> float:
    """Points by which more may come out of the student than of a model that never knew."""
    return float(audit.run.settings["evaluation"].get("forget_margin", FORGET_MARGIN))


def keep_margin(audit: Audit) -> float:
    """Points that a loss may not exceed."""
    return float(audit.run.settings["evaluation"].get("keep_margin", KEEP_MARGIN))


def not_above(change: Interval, margin: float) -> Outcome:
    """Passed if no rise over the margin is left possible; otherwise failed if there is a rise for sure."""
    if change.low is None or change.high is None:
        return "not shown"
    return "passed" if change.high <= margin else "failed" if change.low > 0 else "not shown"


def not_below(change: Interval, margin: float) -> Outcome:
    """Passed if no loss over the margin is left possible; otherwise failed if there is a loss for sure."""
    if change.low is None or change.high is None:
        return "not shown"
    return "passed" if change.low >= -margin else "failed" if change.high < 0 else "not shown"


def pairs_of(audit: Audit, files: Sequence[str], *, with_attacks: bool = False) -> list[Pair]:
    """Answers of student and base to the same question under the same attack, if any."""
    by_role: Mapping[Role, dict[tuple[str, str | None, str], Answer]] = {"student": {}, "base": {}}
    for answer in audit.answers:
        if answer.model in by_role and answer.file in files and (with_attacks or answer.attack is None):
            by_role[answer.model][answer.file, answer.attack, answer.question] = answer
    return [(one, by_role["base"][key]) for key, one in by_role["student"].items() if key in by_role["base"]]


def difference(pairs: Sequence[Pair], measure: Callable[[Answer], bool]) -> Interval:
    """Share of the student's answers for which the measure holds, less the base's."""
    return paired_difference([measure(one) for one, _ in pairs], [measure(other) for _, other in pairs], groups(pairs))


def groups(pairs: Sequence[Pair]) -> list[str]:
    """The entity that each question is about; a question without one stands for itself."""
    return [one.group or one.question for one, _ in pairs]


def perplexity_of(log_probabilities: Iterable[float | None]) -> float | None:
    """Of those answers that were scored; None if none was."""
    values = [value for value in log_probabilities if value is not None]
    return exp(-fmean(values)) if values else None
