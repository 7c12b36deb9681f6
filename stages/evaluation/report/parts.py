"""Which parts an audit has, and why one is missing. Every reason in the report comes from here."""

from collections.abc import Iterator
from typing import get_args

from stages.evaluation.attacks import AttackName
from stages.evaluation.report.rows import ROLES, Audit, Training
from stages.evaluation.scores import NOT_MEASURED as SHIFT_NOT_MEASURED

# Each part with the names under which a reason for it may stand in `not_measured`.
PARTS = {
    "control": ("control",),
    "leaks": ("leak@k", "leaks"),
    "quantisation": ("quantisation",),
    "relearning": ("relearning",),
    "lens": ("lens",),
    "weight_change": ("weight_change",),
    "membership": ("membership",),
    "choices": ("multiple choice by likelihood", "choices"),
    "instructions": ("instructions",),
    "first_tokens": ("first tokens", "first_tokens"),
    "perplexity": ("perplexity",),
}
TITLES = {
    "control": "Never-knew model (control)",
    "leaks": "leak@k",
    "quantisation": "Quantisation",
    "relearning": "Relearning",
    "lens": "Logit lens",
    "weight_change": "Weight change per layer",
    "membership": "Membership",
    "choices": "Multiple choice by likelihood",
    "instructions": "Everyday requests",
    "first_tokens": "First tokens",
    "perplexity": "Perplexity",
}
AUDIT_ONLY = "this file is a plain evaluation; the command make audit measures it"
NO_REASON = "the file gives no reason"
NO_CONTROL = "no model was named that never knew; without one it is not known what ignorance would score"


def missing(audit: Audit, part: str) -> str | None:
    """Why a part of PARTS was not measured, in words; None if it was."""
    if part == "control":
        there = "control" in audit.roles
    elif part == "perplexity":
        there = any(score.metric == "perplexity" for score in audit.scores)
    else:
        there = bool(getattr(audit, part))
    if there:
        return None
    for name in PARTS[part]:
        if reason := audit.not_measured.get(name):
            return reason
    if part == "control":
        return NO_CONTROL
    asked = audit.run.settings["evaluation"]
    if part == "first_tokens" and asked.get("first_tokens") == 0:
        return "evaluation.first_tokens is 0"
    return NO_REASON if _null_or_empty(audit, part) else AUDIT_ONLY


def remarks(audit: Audit, part: str) -> list[str]:
    """Pieces of a part that was measured which were not: `quantisation, int4: …`."""
    if missing(audit, part):
        return []
    return [
        f"{name}: {reason}" for name, reason in audit.not_measured.items() if name.startswith(PARTS[part]) and reason
    ]


def missing_attacks(audit: Audit) -> dict[str, str]:
    """Attacks that were not made on the student, each with its reason."""
    made = {score.attack for score in audit.scores if score.model == "student"}
    chosen = audit.run.settings["evaluation"].get("attacks", ())
    return {
        attack: audit.not_measured.get(f"attack {attack}")
        or ("not among evaluation.attacks" if attack not in chosen else NO_REASON)
        for attack in get_args(AttackName)
        if attack not in made
    }


def shift_reason(audit: Audit, part: str) -> str:
    """Why a part of Performance Shift was not measured. An older file does not say; it is always the same."""
    return audit.performance_shift.reasons.get(part) or SHIFT_NOT_MEASURED.get(part, NO_REASON)


def not_measured(audit: Audit, training: Training | None) -> Iterator[tuple[str, str]]:
    """Every part, attack and model that is missing, with its reason; what only the audit itself knows of comes last."""
    told = set()
    for part, names in PARTS.items():
        if reason := missing(audit, part):
            told |= set(names)
            yield TITLES[part], reason
    for attack, reason in missing_attacks(audit).items():
        told.add(f"attack {attack}")
        yield f"Attack {attack.replace('_', ' ')}", reason
    for role in ROLES:
        if role not in (*audit.roles, "control"):
            yield f"Answers of the {role}", audit.not_measured.get(role) or NO_REASON
    for name, value in audit.performance_shift.parts.items():
        if value is None:
            yield f"Performance Shift, part {name}", shift_reason(audit, name)
    if training is None:
        yield "Training", "there is no run.json beside the audit"
    if audit.run.joules is None or training is None or training.joules is None:
        yield "Energy", "no meter was read; joules are not known"
    yield from ((name, reason) for name, reason in audit.not_measured.items() if name not in told)


def _null_or_empty(audit: Audit, part: str) -> bool:
    """Whether the file has the key and nothing under it, rather than being older than the key."""
    return part in audit.model_fields_set
