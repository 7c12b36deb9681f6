"""Answers side by side: a few questions of every file and attack, with what each model said."""

from collections.abc import Iterator

from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.document import Example, Examples, Said, Section
from stages.evaluation.report.rows import Answer, Audit
from stages.evaluation.report.words import attack_name, clipped, counted

MOST_CHARACTERS = 600


def answers(audit: Audit, said: Answers, most: int) -> Section:
    """Up to `most` questions per file and attack, those first whose answer the student gives away."""
    shown = [
        example
        for file, attack in dict.fromkeys((each.file, each.attack) for each in audit.answers)
        for example in _some(audit, said, file, attack, most)
    ]
    total = len({(each.file, each.attack, each.question) for each in audit.answers})
    explanation = (
        f"{counted(len(shown), 'question')} of {total}: of every file and attack at most {most}, first those whose answer the "
        "student gives away, then in the order of the file. So they show the worst, not the average. All answers are in the "
        "JSON file."
    )
    return Section("answers", "Answers side by side", (Examples(explanation, tuple(shown)),))


def _some(audit: Audit, said: Answers, file: str, attack: str | None, most: int) -> Iterator[Example]:
    by_role = {role: said.of(role, file, attack) for role in audit.roles}
    questions = list(dict.fromkeys(question for own in by_role.values() for question in own))
    student = by_role.get("student", {})
    # Sorting keeps the order of the file among equals.
    questions.sort(key=lambda question: not (question in student and _gives_it(student[question])))
    for question in questions[:most]:
        own = {role: answers[question] for role, answers in by_role.items() if question in answers}
        first = next(iter(own.values()))
        put = first.asked if first.asked and first.asked != question else ""
        if first.answer_start:
            put = f"{put or question} – the answer begun: {first.answer_start}"
        yield Example(
            file=file,
            attack=attack_name(attack) + (" (supplies the answer)" if first.supplies_answer else ""),
            question=question,
            asked=clipped(put, MOST_CHARACTERS),
            reference=first.reference,
            said=tuple(
                Said(role, clipped(each.answer, MOST_CHARACTERS), tuple(_signs(each))) for role, each in own.items()
            ),
        )


def _gives_it(answer: Answer) -> bool:
    # Older files do not say what leaked, or what stood there in full; the whole of a reference is its recall.
    found = answer.in_full if answer.leaked is None else answer.leaked
    return answer.rouge_l_recall == 1 if found is None else found


def _signs(answer: Answer) -> Iterator[str]:
    if _gives_it(answer):
        yield "gives the answer"
    if answer.refused:
        yield "refuses"
    if answer.degenerate:
        yield "repeats or is empty"
