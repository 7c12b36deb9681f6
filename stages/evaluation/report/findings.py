"""What the verdict is made of: one finding for each of its clauses, and one for each probe."""

from dataclasses import dataclass
from typing import Literal

from stages.evaluation.metrics import Interval
from stages.evaluation.report.words import interval, points, signed

# Of a clause: passed, failed, not shown (too few questions, or too much doubt, to say either), not measured.
# Of a probe: whether facts that the base knew come out of the student by it; blunt if it gets too little out of the base.
Outcome = Literal["passed", "failed", "not shown", "not measured", "comes out", "nothing comes out", "blunt here"]
GOOD: tuple[Outcome, ...] = ("passed", "nothing comes out")
BAD: tuple[Outcome, ...] = ("failed", "comes out")


@dataclass(frozen=True)
class Finding:
    """probe: the clause, or what was done. subject: the same in the middle of a sentence. text: what was found, in figures."""

    probe: str
    subject: str
    outcome: Outcome
    text: str

    @property
    def tone(self) -> Literal["good", "bad", "open"]:
        """What the outcome means to one who wants the model to have forgotten, and to have kept the rest."""
        return "good" if self.outcome in GOOD else "bad" if self.outcome in BAD else "open"


def change_text(change: Interval) -> str:
    """+2.0 [+1.0, +3.0]"""
    return f"{signed(change.mean)} {interval(change.low, change.high, change=True)}".rstrip()


def share_text(hits: list[bool], found: Interval) -> str:
    """3 of 24 (12.5 [2.7, 32.4])"""
    return f"{sum(hits)} of {len(hits)} ({points(found.mean)} {interval(found.low, found.high)})"
