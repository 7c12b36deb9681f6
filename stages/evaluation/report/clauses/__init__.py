"""The clauses of the verdict, one file each: an audit in, a finding out. Beside each stands its rule in plain words."""

from stages.evaluation.report.clauses import fluent, forgotten, instructions, kept, trace
from stages.evaluation.report.facts import Facts
from stages.evaluation.report.findings import Finding
from stages.evaluation.report.rows import Audit

RULES = (forgotten.RULE, fluent.RULE, kept.RULE, instructions.RULE, trace.RULE)


def clauses_of(audit: Audit, facts: Facts) -> tuple[Finding, ...]:
    """Every clause, forgetting first."""
    return (
        forgotten.forgotten(audit, facts),
        fluent.fluent(audit),
        *kept.kept(audit),
        instructions.instructed(audit),
        trace.no_trace(audit),
    )
