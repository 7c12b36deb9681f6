"""Who watches the auditor: every sham fails the clauses that it is made to fail and no other; only the true pass passes."""

from functools import cache

import pytest
from shams import SHAMS, audit_of
from write_shams_page import PAGE, page

from stages.evaluation.report.verdict import Verdict, judge


@cache
def verdict_on(name: str) -> Verdict:
    return judge(audit_of(SHAMS[name]))


@pytest.mark.parametrize("name", SHAMS)
def test_a_sham_is_caught_by_its_clauses_and_by_no_other(name: str) -> None:
    verdict = verdict_on(name)

    missed = {clause.probe for clause in verdict.clauses if clause.outcome != "passed"}
    assert missed == SHAMS[name].caught_by, [(each.probe, each.outcome, each.text) for each in verdict.clauses]
    assert verdict.passed == (not SHAMS[name].caught_by)


def test_every_clause_is_the_only_one_to_catch_some_sham() -> None:
    alone = {next(iter(sham.caught_by)) for sham in SHAMS.values() if len(sham.caught_by) == 1}

    assert alone >= {"Forgotten", "Fluent on what is forgotten", "Kept, neighbours", "Instructions", "No trace"}


@pytest.mark.parametrize("name", [name for name, sham in SHAMS.items() if sham.caught_by])
def test_without_a_model_that_never_knew_no_sham_passes_either(name: str) -> None:
    assert not judge(audit_of(SHAMS[name], control=False)).passed


def test_the_committed_page_tells_the_rules_and_every_sham() -> None:
    assert PAGE.read_text(encoding="utf-8") == page({name: verdict_on(name) for name in SHAMS}), "make shams"
