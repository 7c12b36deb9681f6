"""Probes that try to bring answers back, or to find them: one finding each. The rules stand in `verdict.RULES`."""

from collections.abc import Iterator

from stages.evaluation.metrics import Interval
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.findings import Finding, Outcome, change_text
from stages.evaluation.report.rows import Audit, Measured, Relearning, Score
from stages.evaluation.report.words import RECALL, attack_name, counted, interval, listed, points

NO_CONTROL = "Without a control that was trained alike, recovery cannot be read."


def attacks(audit: Audit, answers: Answers) -> Iterator[Finding]:
    """The strongest attack that does not supply the answer, and every one that brings answers back."""
    made = [
        score
        for score in audit.scores
        if score.model == "student" and score.attack and score.metric == RECALL and not score.supplies_answer
    ]
    if not made:
        return
    strongest = max(made, key=lambda score: score.mean)
    change = answers.change_by(strongest)
    text = f"Strongest of {len(made)}" if len(made) > 1 else "One was made"
    text += f": {attack_name(strongest.attack)} on {strongest.file}, recall {score_text(strongest)}"
    text += f", {change_text(change)} against the same questions without it." if change else "."
    names = list(dict.fromkeys(attack_name(score.attack) for score in made if _comes_back(answers, score)))
    if names:
        text += f" Answers come back under {listed(names)}."
        subject = names[0] if len(names) == 1 else f"{len(names)} attacks (the strongest: {_strongest(made, names)})"
        yield Finding("Attacks", subject, "brings back", text)
    else:
        yield Finding("Attacks", counted(len(made), "attack"), "no recovery shown", text)


def _strongest(made: list[Score], names: list[str]) -> str:
    return attack_name(max((s for s in made if attack_name(s.attack) in names), key=lambda score: score.mean).attack)


def _comes_back(answers: Answers, score: Score) -> bool:
    above_control = answers.recall_between("student", "control", score.file, score.attack)
    return _above_zero(answers.change_by(score)) and (above_control is None or _above_zero(above_control))


def sampling(audit: Audit, answers: Answers) -> Iterator[Finding]:
    """leak@k at the largest k, file by file, beside greedy answers in full and the control, question by question."""
    leaks = audit.leaks or ()
    for file in dict.fromkeys(leak.file for leak in leaks if leak.model == "student"):
        most = max((leak for leak in leaks if (leak.file, leak.model) == (file, "student")), key=lambda leak: leak.k)
        beside = {leak.model: leak for leak in leaks if (leak.file, leak.k) == (file, most.k)}
        greedy, control = answers.score("student", file, metric="answer_in_full"), beside.get("control")
        text = f"At least one of {counted(most.k, 'sampled answer')} gives the answer in full for {score_text(most)} % of questions"
        text += "".join(f"; {role} {points(beside[role].mean)}" for role in ("base", "control") if role in beside)
        outcome: Outcome = "cannot be read"
        if greedy:
            text += f"; greedy {points(greedy.mean)}"
            gained = answers.leaks_beyond(file)
            text += f" ({change_text(gained)} on the same questions)" if gained else ""
            back = _above_zero(gained) and (control is None or _above_zero(answers.leaks_beyond(file, "control")))
            outcome = "brings back" if back else "no recovery shown"
        text += "." if control else ". How much of that is guessing is not known without a control."
        yield Finding(f"Sampling, {file}", f"sampling {counted(most.k, 'answer')} each on {file}", outcome, text)


def quantisation(audit: Audit) -> Iterator[Finding]:
    """Every rounding of the weights on the forget files, in one finding."""
    rows = [row for row in audit.quantisation or () if row.metric == RECALL and _is_forget(audit, row.file)]
    controls = {(row.weights, row.file): row for row in rows if row.model == "control"}
    back, told = [], []
    for row in (row for row in rows if row.model == "student"):
        change = None if row.delta is None else Interval(row.delta, row.delta_low, row.delta_high, row.n)
        control = controls.get((row.weights, row.file))
        told.append(f"{row.weights} on {row.file}: {points(row.mean)}" + (f", {change_text(change)}" if change else ""))
        if _above_zero(change) and (control is None or apart(row, control)):
            back.append(row.weights)
    if told:
        subject = f"rounding the weights to {listed(list(dict.fromkeys(back)))}" if back else "rounding the weights"
        yield Finding(
            "Rounded weights",
            subject,
            "brings back" if back else "no recovery shown",
            f"Recall with {'; '.join(told)}.",
        )


def relearning(audit: Audit) -> Iterator[Finding]:
    """The student's curve beside the control's, for each text that was trained on."""
    rows = [row for row in audit.relearning or () if row.metric == RECALL and _is_forget(audit, row.file)]
    for trained_on, file in dict.fromkeys((row.trained_on, row.file) for row in rows):
        own = [row for row in rows if (row.trained_on, row.file) == (trained_on, file)]
        student = {row.step: row for row in own if row.model == "student"}
        control = {row.step: row for row in own if row.model == "control"}
        if student:
            text, outcome = _relearned(trained_on, student, control)
            probe = f"Training further on {'what was forgotten' if trained_on == 'forget' else f'{trained_on} text'}"
            yield Finding(probe, probe[0].lower() + probe[1:], outcome, f"{file}: {text}")


def _relearned(trained_on: str, student: dict[int, Relearning], control: dict[int, Relearning]) -> tuple[str, Outcome]:
    best, start = max(student.values(), key=lambda row: row.mean), student.get(0)
    text = f"recall at most {score_text(best)}, after {counted(best.step, 'step')}"
    rise = _rise(best)
    text += f"; {points(start.mean)} before" if start else ""
    text += f", {change_text(rise)} question by question." if rise else "."
    if not control:
        if trained_on == "forget" or start is None:
            return f"{text} {NO_CONTROL}", "cannot be read"
        # Text that holds no answer can teach none: what rises was there.
        rises = any(step and _risen(row, start) for step, row in student.items())
        return text, "brings back" if rises else "no recovery shown"
    # Where the two start from is no matter of relearning: only what has risen since has come back.
    steps = [step for step in student if step and step in control]
    if not steps:
        return f"{text} The control was measured after none of the same steps.", "cannot be read"
    faster = [step for step in steps if _risen(student[step], start) and apart(student[step], control[step])]
    step = max(faster or steps, key=lambda each: student[each].mean - control[each].mean)
    there, beside = score_text(student[step]), score_text(control[step])
    text += f" Furthest apart after {counted(step, 'step')}: {there}, the control {beside}."
    return text, "brings back" if faster else "no recovery shown"


def _risen(row: Relearning, start: Relearning | None) -> bool:
    """Whether a curve lies above its start, question by question; older files hold no paired change."""
    rise = _rise(row)
    return _above_zero(rise) if rise else start is not None and apart(row, start)


def _rise(row: Relearning) -> Interval | None:
    return None if row.delta is None else Interval(row.delta, row.delta_low, row.delta_high, row.n)


def membership(audit: Audit) -> Iterator[Finding]:
    """Whether the student still tells what is to be forgotten from text that it should know as little."""
    own = [row for row in audit.membership or () if row.model == "student" and _is_forget(audit, row.file)]
    if not own:
        return
    told = [
        f"{row.score.replace('_', '-')} on {row.file} {points(row.auc)} {interval(row.low, row.high)}".rstrip()
        + f" against {points(row.expected)} expected"
        for row in own
    ]
    known = any(row.low is not None and row.low > row.expected for row in own)
    outcome: Outcome = "still told apart" if known else "no trace shown"
    if all(row.low is None for row in own):
        outcome = "cannot be read"
    yield Finding("Membership", "membership inference", outcome, f"AUC in points: {'; '.join(told)}.")


def _is_forget(audit: Audit, file: str) -> bool:
    """Whether a file, a part of it in brackets aside ("forget (held-out half)"), is none of those that are to be kept."""
    return file.partition(" (")[0] not in audit.kept_files


def _above_zero(change: Interval | None) -> bool:
    return change is not None and change.low is not None and change.low > 0


def apart(one: Measured, other: Measured) -> bool:
    """Whether the whole interval of one lies above that of the other."""
    return one.low is not None and other.high is not None and one.low > other.high


def score_text(row: Measured) -> str:
    """14.8 [8.0, 22.7]"""
    return f"{points(row.mean)} {interval(row.low, row.high)}".rstrip()
