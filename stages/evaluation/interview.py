"""Ask one model every question, and keep every answer.

An engine, a prompter and questions in; a polars frame with one row per answer out. It scores answers and compares
nothing: that is `scores`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import polars as pl

from stages.evaluation.attacks import ATTACKS
from stages.evaluation.metrics import score_answer
from stages.evaluation.questions import Question
from stages.language_model.engine import Engine
from stages.language_model.prompts import Prefix, Prompter

ModelRole = Literal["base", "teacher", "student"]

ANSWER_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "attack": pl.String,
    "question": pl.String,
    "reference": pl.String,
    "answer": pl.String,
    "tokens": pl.Int64,
    "rouge_l_recall": pl.Float64,
    "rouge_l_f1": pl.Float64,
    "refused": pl.Boolean,
    "degenerate": pl.Boolean,
}


def interview(
    engine: Engine,
    prompter: Prompter,
    files: Mapping[str, Sequence[Question]],
    *,
    role: ModelRole,
    prefix: Prefix | None,
    attacks: Sequence[str],
    attacked_files: Sequence[str],
    max_tokens: int,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Greedy answers of one model to every question of every file, then to the attacked files once per attack.

    role, prefix: the teacher is the base model with a prefix; the others have none.
    Returns one row per answer, columns `ANSWER_SCHEMA`; attack is null where there was none. ROUGE is 0–1.
    """
    asked: list[tuple[str, str | None, Question]] = [
        (name, None, question) for name, questions in files.items() for question in questions
    ]
    asked += [(name, attack, question) for attack in attacks for name in attacked_files for question in files[name]]
    prompts = [_prompt(prompter, question, attack, prefix) for _, attack, question in asked]
    said = engine.continue_greedily(prompts, max_tokens=max_tokens, advance=advance)
    records = []
    for (name, attack, question), continuation in zip(asked, said, strict=True):
        answer = prompter.decode(continuation.token_ids.tolist())
        start = ATTACKS[attack].answer_start if attack else ""
        scores = score_answer(start + answer, question.references)
        records.append(
            {
                "model": role,
                "file": name,
                "attack": attack,
                "question": question.question,
                "reference": question.answer,
                "answer": answer,
                "tokens": len(continuation.token_ids),
                **vars(scores),
            }
        )
    return pl.DataFrame(records, schema=ANSWER_SCHEMA)


def question_count(
    files: Mapping[str, Sequence[Question]], attacks: Sequence[str], attacked_files: Sequence[str]
) -> int:
    """How many answers `interview` will ask of one model."""
    return sum(map(len, files.values())) + len(attacks) * sum(len(files[name]) for name in attacked_files)


def longest_prompt(
    prompter: Prompter, files: Mapping[str, Sequence[Question]], prefix: Prefix | None, attacks: Sequence[str]
) -> int:
    """Tokens of the longest prompt that `interview` will send."""
    forms = [None, *attacks]
    return max(
        len(_prompt(prompter, question, attack, prefix))
        for questions in files.values()
        for question in questions
        for attack in forms
    )


def _prompt(prompter: Prompter, question: Question, attack: str | None, prefix: Prefix | None) -> list[int]:
    if attack is None:
        return prompter.ids(question.question, prefix)
    chosen = ATTACKS[attack]
    return prompter.ids(chosen.rewrite(question.question), prefix, answer_start=chosen.answer_start)
