"""Kept: what the base answers rightly on the files that are to be kept, and whether the student does."""

from collections.abc import Iterator
from statistics import fmean

from stages.evaluation.intervals import paired_difference
from stages.evaluation.report.clauses.comparing import (
    KEEP_MARGIN,
    SAME_QUESTIONS,
    Pair,
    difference,
    keep_margin,
    not_above,
    not_below,
    pairs_of,
)
from stages.evaluation.report.findings import Finding, Outcome, change_text
from stages.evaluation.report.rows import Audit, Role
from stages.evaluation.report.words import points

RULE = (
    "Kept. Not losing is shown, not assumed: passed if the 95 % interval of student less base, question by question, holds no "
    f"loss of over evaluation.keep_margin ({KEEP_MARGIN:.0f} points by default); failed if it is not passed and "
    "lies below zero, or if more answers are empty or repeat themselves, by the same rule. An answer is "
    "right if it is given in the first sentence, not negated, and not one of several. Multiple choice counts alike, but for what "
    "evaluation.forget_choices names; a task of lm-eval within the widest group that it belongs to."
)


def kept(audit: Audit) -> Iterator[Finding]:
    """Each file on what is to be kept, and each file, task or group of multiple choice."""
    findings = [*_files(audit), *_chosen(audit)]
    yield from findings or [Finding("Kept", "kept", "not measured", "No question on what is to be kept was asked.")]


def _files(audit: Audit) -> Iterator[Finding]:
    for file in audit.kept_files:
        pairs = pairs_of(audit, [file])
        outcome, text = _answered(pairs, keep_margin(audit)) if pairs else ("not measured", SAME_QUESTIONS)
        yield Finding(f"Kept, {file}", f"kept ({file})", outcome, text)


def _answered(pairs: list[Pair], margin: float) -> tuple[Outcome, str]:
    change = difference(pairs, lambda answer: answer.is_right)
    broken = difference(pairs, lambda answer: answer.degenerate)
    own, base = (100 * fmean(answer.is_right for answer in side) for side in zip(*pairs, strict=True))
    text = f"Right answers of {len(pairs)}: {points(own)}, the base {points(base)}: {change_text(change)}."
    if not_above(broken, margin) == "failed":
        return "failed", f"{text} Empty or repeating answers: {change_text(broken)}."
    return not_below(change, margin), text


def _chosen(audit: Audit) -> Iterator[Finding]:
    """A task counts within the widest group whose mean it enters, as MMLU's fifty-seven do."""
    forgotten = set(audit.run.settings["evaluation"].get("forget_choices", ()))
    by_name: dict[str, dict[Role, dict[str, bool]]] = {}
    for each in audit.choice_answers or ():
        if not forgotten & {each.file, *each.groups}:
            name = each.groups[0] if each.groups else each.file
            by_name.setdefault(name, {}).setdefault(each.model, {})[f"{each.file} {each.question}"] = each.correct
    for name, found in by_name.items():
        own, base = found.get("student", {}), found.get("base", {})
        shared = [question for question in own if question in base]
        if not shared:
            yield Finding(f"Kept, {name}", f"kept ({name})", "not measured", SAME_QUESTIONS)
            continue
        ours, theirs = [own[each] for each in shared], [base[each] for each in shared]
        change = paired_difference(ours, theirs, shared)
        text = f"Multiple choice, right of {len(shared)}: {points(100 * fmean(ours))}, the base {points(100 * fmean(theirs))}"
        outcome = not_below(change, keep_margin(audit))
        yield Finding(f"Kept, {name}", f"kept ({name})", outcome, f"{text}: {change_text(change)}.")
