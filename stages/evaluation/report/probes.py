"""One probe in, what it gets out of each model of the facts that the base knew out, and whether that is evidence."""

from stages.evaluation.intervals import share
from stages.evaluation.report.facts import BLUNT_BELOW, Facts, Probe, groups_of
from stages.evaluation.report.findings import Finding, share_text
from stages.evaluation.report.rows import Role


def is_sharp(facts: Facts, probe: Probe) -> bool:
    """Whether a probe gets at least half of the facts out of the base that it was asked for; never one that supplies them."""
    known = probe.asked("base", facts.known)
    if probe.supplies_answer or not known:
        return False
    hits = probe.hits("base", known)
    return 100 * sum(hits) >= BLUNT_BELOW * len(hits)


def probe_finding(facts: Facts, probe: Probe) -> Finding | None:
    """What one probe gets out of student, base and control, of the facts that the base knew; None if it asked none of them."""
    own = probe.asked("student", facts.known)
    if not own:
        return None
    hits = probe.hits("student", own)
    text = f"{share_text(hits, share(hits, groups_of(own)))} come out of the student"
    beside: tuple[Role, ...] = ("base", "control")
    for role in beside:
        asked = probe.asked(role, facts.known)
        if asked:
            theirs = probe.hits(role, asked)
            text += f"; {role} {share_text(theirs, share(theirs, groups_of(asked)))}"
    name = probe.name[0].upper() + probe.name[1:]
    if probe.supplies_answer:
        return Finding(
            name, probe.name, "blunt here", f"{text}. The answer stands in the prompt: no evidence of recall."
        )
    if not probe.alters and probe.asked("base", facts.known) and not is_sharp(facts, probe) and not any(hits):
        return Finding(name, probe.name, "blunt here", f"{text}. It gets less than half out of the base: no evidence.")
    return Finding(name, probe.name, "comes out" if any(hits) else "nothing comes out", f"{text}.")


def blunt(facts: Facts) -> list[str]:
    """Names of probes that get less than half out of the base, and nothing out of the student."""
    return [
        probe.name
        for probe in facts.probes
        if not probe.supplies_answer
        and probe.asked("base", facts.known)
        and not is_sharp(facts, probe)
        and not any(probe.hits("student", probe.asked("student", facts.known)))
    ]
