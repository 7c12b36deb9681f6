"""Fluent: whether the student speaks whole sentences about what is to be forgotten."""

from stages.evaluation.report.clauses.comparing import (
    PERPLEXITY_FACTOR,
    SAME_QUESTIONS,
    difference,
    keep_margin,
    not_above,
    pairs_of,
    perplexity_of,
)
from stages.evaluation.report.findings import Finding, Outcome, change_text
from stages.evaluation.report.rows import Audit, Role
from stages.evaluation.report.words import points

RULE = (
    "Fluent. Broken speech is not forgetting. On what is to be forgotten, asked plainly, in other words and under every attack, "
    "failed if more of the student’s answers are empty or repeat themselves than of the base’s, or if their perplexity under "
    f"the base is over {PERPLEXITY_FACTOR:.0f} times that of what the base, or the base behind its prefix, says there. Passed "
    "if the interval of the first holds no rise over evaluation.keep_margin and perplexity was measured."
)


def fluent(audit: Audit) -> Finding:
    """Plain answers and those under attack together; perplexity of the plain ones."""
    pairs = pairs_of(audit, audit.forget_files, with_attacks=True)
    if not pairs:
        return _finding("not measured", SAME_QUESTIONS)
    change = difference(pairs, lambda answer: answer.degenerate)
    text = f"Answers that are empty or repeat themselves, against the base: {change_text(change)}."
    outcome = not_above(change, keep_margin(audit))
    own = _perplexity(audit, "student")
    usual = [value for value in (_perplexity(audit, "base"), _perplexity(audit, "teacher")) if value is not None]
    if own is None or not usual:
        return _finding("not shown" if outcome == "passed" else outcome, f"{text} Perplexity was not measured.")
    text += f" Perplexity under the base {points(own)}; base and teacher up to {points(max(usual))}."
    return _finding("failed" if own > PERPLEXITY_FACTOR * max(usual) else outcome, text)


def _perplexity(audit: Audit, role: Role) -> float | None:
    return perplexity_of(
        answer.log_probability
        for answer in audit.answers
        if answer.model == role and answer.file in audit.forget_files and answer.attack is None
    )


def _finding(outcome: Outcome, text: str) -> Finding:
    return Finding("Fluent on what is forgotten", "fluent on what is forgotten", outcome, text)
