"""`make shams`: every sham through the verdict, and docs/verdict.md."""

from collections.abc import Mapping

from conftest import ROOT
from shams import SHAMS, audit_of

from stages.evaluation.report.verdict import LIMIT, RULES, Verdict, judge
from stages.files import write_atomically

PAGE = ROOT / "docs/verdict.md"
HEAD = """# The verdict of an audit

`make shams` writes this page from the verdict's own rules and a suite of sham students. `duet report` opens with the verdict of
a run; `duet results` and `duet compare --mean` tell it clause by clause. How one answer is scored: [measures.md](measures.md).

## Rules
"""
SUITE = """## Who watches the auditor

Each line is a student that has forgotten nothing, or has lost what was to be kept, and is made to look otherwise; the last is a
model that was trained without the forget set, from another seed than the control. All of them answer the capitals' own question
files, so that every answer is scored as one of a real model is. A dash is a clause that was passed. A new clause needs a sham that
it alone catches, and the tests hold every line.
"""


def page(verdicts: Mapping[str, Verdict]) -> str:
    """verdicts: by sham."""
    clauses = [clause.probe for clause in next(iter(verdicts.values())).clauses]
    rules = "\n".join(f"- {rule}" for rule in (*RULES, LIMIT))
    lines = [f"| student | {' | '.join(clauses)} | verdict |", "|---|" + "---|" * (len(clauses) + 1)]
    for name, verdict in verdicts.items():
        outcomes = ["–" if clause.outcome == "passed" else f"**{clause.outcome}**" for clause in verdict.clauses]
        lines.append(f"| {name} | {' | '.join(outcomes)} | {'passed' if verdict.passed else 'not passed'} |")
    return f"{HEAD}\n{rules}\n\n{SUITE}\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_atomically(PAGE, page({name: judge(audit_of(sham)) for name, sham in SHAMS.items()}).encode())
