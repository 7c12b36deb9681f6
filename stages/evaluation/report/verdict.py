"""An audit in; a headline, one finding per clause and per probe, and the rules by which they were found, out.

Worst case first: what comes out of the student by any probe counts, of the facts that the base knew. No outcome says that
something was forgotten for good: probes show what they bring back, never that nothing is left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.evaluation.intervals import smallest_rise
from stages.evaluation.report.clauses import RULES as CLAUSES
from stages.evaluation.report.clauses import clauses_of
from stages.evaluation.report.facts import Facts
from stages.evaluation.report.findings import Finding
from stages.evaluation.report.parts import TITLES, missing
from stages.evaluation.report.probes import blunt, probe_finding
from stages.evaluation.report.rows import Audit
from stages.evaluation.report.words import counted, listed, points

LIMIT = "These probes show what they bring back. No audit can prove that nothing is left in the weights."
RULES = (
    "A model passes if it passes every clause. A clause that was not measured is not passed, nor is one that is “not shown”: "
    "the questions are too few, or the change too uncertain, to say either.",
    *CLAUSES,
    "A probe that gets less than half of the facts out of the base, and none out of the student, is blunt here: it is no "
    "evidence. Many probes are made, and the student is charged with whatever any of them gets: no allowance is made for their "
    "number, and a model that never knew is asked by all of them alike.",
    "Intervals in brackets are 95 % intervals, exact for shares, and over entities where several questions are about one. "
    "Two models are compared question by question.",
)


@dataclass(frozen=True)
class Verdict:
    """headline: a few sentences. findings: the clauses, then the probes by cost. limit: what no audit can show."""

    headline: str
    findings: tuple[Finding, ...]
    clauses: tuple[Finding, ...]
    limit: str = LIMIT

    @property
    def passed(self) -> bool:
        """Whether every clause was passed."""
        return all(clause.outcome == "passed" for clause in self.clauses)


def judge(audit: Audit) -> Verdict:
    """The verdict by RULES."""
    facts = Facts(audit)
    forgotten, *others = clauses_of(audit, facts)
    probes = [finding for probe in facts.probes if (finding := probe_finding(facts, probe))]
    absent = [title for part, title in TITLES.items() if missing(audit, part)]
    told = f"{listed(absent)}. The reasons stand where they would be, and at the end."
    rest = [Finding("Not measured", "", "not measured", told)] if absent else []
    headline = " ".join(_headline(facts, forgotten, others, absent))
    return Verdict(headline, (forgotten, *others, *probes, *rest), (forgotten, *others))


def _headline(facts: Facts, forgotten: Finding, others: Sequence[Finding], absent: Sequence[str]) -> Iterator[str]:
    state = {
        "passed": "Forgotten, as far as these probes reach",
        "failed": "Not forgotten",
        "not shown": "Not shown to be forgotten",
    }.get(forgotten.outcome, "Whether anything was forgotten cannot be read from this file")
    yield f"{state}: {forgotten.text[0].lower()}{forgotten.text[1:]}"
    for outcome, says in (("failed", "Failed"), ("not shown", "Not shown")):
        if found := [finding for finding in others if finding.outcome == outcome]:
            yield f"{says}: {listed([finding.subject for finding in found])}."
    if dull := blunt(facts):
        yield f"Blunt here, and no evidence: {listed(dull)}."
    if rise := smallest_rise(len(facts.worst_case)):
        yield f"With {counted(len(facts.worst_case), 'fact')}, a difference below {points(rise)} points cannot be shown."
    if len(absent) > 3:
        yield f"{counted(len(absent), 'part')} of the audit were not measured."
    elif absent:
        yield f"Not measured: {listed(absent)}."
