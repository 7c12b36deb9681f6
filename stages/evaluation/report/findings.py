"""Asked plainly: one file in, one finding out. The rules stand in `verdict.RULES`; figures come with their intervals."""

from dataclasses import dataclass
from typing import Literal

from stages.evaluation.metrics import Interval
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.rows import Audit
from stages.evaluation.report.words import interval, points, signed
from stages.evaluation.targets import KEEP_WITHIN

Outcome = Literal[
    "lower",
    "not lower",
    "still above",
    "broken",
    "no loss shown",
    "unclear",
    "lost",
    "brings back",
    "no recovery shown",
    "still told apart",
    "no trace shown",
    "cannot be read",
    "not measured",
]
GOOD: tuple[Outcome, ...] = ("lower", "no loss shown", "no recovery shown", "no trace shown")
OPEN: tuple[Outcome, ...] = ("unclear", "cannot be read", "not measured")
TOO_FEW = "Student and base did not answer two of the same questions."


@dataclass(frozen=True)
class Finding:
    """probe: what was done. subject: the same in the middle of a sentence. text: what it found, with its figures."""

    probe: str
    subject: str
    outcome: Outcome
    text: str

    @property
    def tone(self) -> Literal["good", "bad", "open"]:
        """What the outcome means to one who wants the model to have forgotten, and to have kept the rest."""
        return "open" if self.outcome in OPEN else "good" if self.outcome in GOOD else "bad"


def plain(audit: Audit, answers: Answers, file: str) -> Finding:
    """The student on one forget file, beside the base, and beside the control or else the teacher."""
    probe = f"Asked plainly, {file}"
    student, base = answers.score("student", file), answers.score("base", file)
    change = answers.recall_between("student", "base", file)
    if student is None or base is None or change is None or change.low is None or change.high is None:
        return Finding(probe, file, "cannot be read", TOO_FEW)
    text = f"Recall {points(student.mean)}, the base {points(base.mean)}: {change_text(change)}."
    if change.high >= 0:
        return Finding(probe, file, "not lower", f"{text} No drop is shown.")
    name: Literal["control", "teacher"] = "control" if "control" in audit.roles else "teacher"
    reference, gap = answers.score(name, file), answers.recall_between("student", name, file)
    if reference is None or gap is None or gap.low is None:
        return Finding(probe, file, "lower", f"{text} Neither a control nor a teacher answered these questions.")
    text += f" Against the {name}’s {points(reference.mean)}: {change_text(gap)}."
    return Finding(probe, file, "still above" if gap.low > 0 else "lower", text)


def broken(answers: Answers, file: str) -> Finding | None:
    """A finding only if the student's answers are degenerate more often than the base's."""
    more = answers.degenerate_between("student", "base", file)
    if more is None or more.low is None or more.low <= 0:
        return None
    text = f"Empty or repeating answers: {change_text(more)} against the base. Their low recall is not all forgetting."
    return Finding(f"Fluency, {file}", file, "broken", text)


def kept(answers: Answers, file: str) -> Finding:
    """The student on one file that was to be kept, beside the base."""
    probe = f"To be kept, {file}"
    student, base = answers.score("student", file), answers.score("base", file)
    change = answers.recall_between("student", "base", file)
    if student is None or base is None or change is None or change.low is None or change.high is None:
        return Finding(probe, file, "cannot be read", TOO_FEW)
    text = f"Recall {points(student.mean)}, the base {points(base.mean)}: {change_text(change)}."
    if change.high < 0:
        return Finding(probe, file, "lost", text)
    if change.low < -KEEP_WITHIN:
        return Finding(probe, file, "unclear", f"{text} A loss of up to {points(-change.low)} points is not ruled out.")
    return Finding(probe, file, "no loss shown", text)


def change_text(change: Interval) -> str:
    """+2.0 [+1.0, +3.0]"""
    return f"{signed(change.mean)} {interval(change.low, change.high, change=True)}".rstrip()
