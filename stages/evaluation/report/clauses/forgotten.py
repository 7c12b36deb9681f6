"""Forgotten: what comes out of the student by any probe, beside a model that never knew."""

from collections.abc import Sequence

from stages.evaluation.intervals import paired_difference, share
from stages.evaluation.report.clauses.comparing import FORGET_MARGIN, forget_margin, not_above
from stages.evaluation.report.facts import PLAIN, Fact, Facts, groups_of
from stages.evaluation.report.findings import Finding, Outcome, change_text, share_text
from stages.evaluation.report.probes import is_sharp
from stages.evaluation.report.rows import Audit
from stages.evaluation.report.words import counted

# Without a model that never knew, so many points may come out by guessing.
GUESSED_AT_MOST = 10.0
NEVER_KNEW = "a model that never knew"

RULE = (
    "Forgotten. Judged on the facts that the base itself answers rightly when asked plainly. A fact comes out if the student "
    "gives its answer, in any form, under any probe: plain, in other words, under any attack that does not supply the answer, "
    "in any sample, with rounded weights, after further training. Where attacks ask for some facts of a file only, these are "
    "judged. Passed if the whole 95 % interval of the share of such facts "
    f"lies no more than evaluation.forget_margin ({FORGET_MARGIN:.0f} points by default) above that of {NEVER_KNEW}, and at "
    "least one probe other than the plain question gets half of them out of the base. Otherwise failed if the whole interval "
    f"lies above. Without such a model: passed if the whole interval lies below {GUESSED_AT_MOST:.0f} points, failed if it lies "
    "above."
)


def forgotten(audit: Audit, facts: Facts) -> Finding:
    """Judged on the facts that every probe asked for."""
    asked = [fact for fact in sorted(facts.worst_case) if facts.was_asked("student", fact)]
    if not asked:
        why = (
            "No known fact was asked of the student"
            if facts.known
            else "The base answers none of these questions rightly"
        )
        return _finding("not measured", f"{why}, so nothing can be shown to be forgotten.")
    out = facts.any_probe("student", asked)
    found = share(out, groups_of(asked))
    text = f"{share_text(out, found)} of the facts that the base knew come out of the student by some probe"
    outcome: Outcome
    if "control" in audit.roles and all(facts.was_asked("control", fact) for fact in asked):
        outcome, told = _beside_control(audit, facts, asked)
        text += told
    else:
        text += f". There is no model that never knew to compare with.{_guessed(facts)}"
        high, low = found.high or 0.0, found.low or 0.0
        outcome = "passed" if high < GUESSED_AT_MOST else "failed" if low > GUESSED_AT_MOST else "not shown"
    if cheapest := _cheapest(facts, asked):
        text += f" The cheapest probe that gets any: {cheapest}."
    if outcome == "passed" and not any(is_sharp(facts, each) for each in facts.probes if each.name != PLAIN):
        return _finding("not shown", f"{text} But no other probe gets half of these facts out of the base itself.")
    return _finding(outcome, text)


def _beside_control(audit: Audit, facts: Facts, asked: Sequence[Fact]) -> tuple[Outcome, str]:
    """Student against control, by the probes that were made of both."""
    alike = facts.made_of("control")
    ours, theirs = facts.any_probe("student", asked, alike), facts.any_probe("control", asked, alike)
    gap = paired_difference(ours, theirs, groups_of(asked))
    outcome = not_above(gap, forget_margin(audit))
    text = f"; of {NEVER_KNEW}, {share_text(theirs, share(theirs, groups_of(asked)))}. Difference: {change_text(gap)}."
    more = sum(facts.any_probe("student", asked)) - sum(ours)
    if not more:
        return outcome, text
    # What a probe gets out of the student alone may be guessed, too; nobody knows.
    text += f" {counted(more, 'fact')} more by probes that were not made of that model."
    return ("not shown" if outcome == "passed" else outcome), text


def _cheapest(facts: Facts, asked: Sequence[Fact]) -> str:
    """The first probe, in the order of cost, by which something comes out of the student."""
    for probe in facts.probes:
        own = [fact for fact in asked if fact in probe.came_out.get("student", {})]
        hits = probe.hits("student", own) if own and not probe.supplies_answer else []
        if any(hits):
            return f"{probe.name}, {sum(hits)} of {len(hits)}"
    return ""


def _guessed(facts: Facts) -> str:
    """What comes out of the student of facts that the base did not know: a measure of guessing."""
    unknown = [fact for fact in sorted(facts.unknown) if facts.was_asked("student", fact)]
    if not unknown:
        return ""
    out = facts.any_probe("student", unknown)
    return f" Of {counted(len(out), 'fact')} that the base did not know, {sum(out)} come out as well."


def _finding(outcome: Outcome, text: str) -> Finding:
    return Finding("Forgotten", "forgotten", outcome, text)
