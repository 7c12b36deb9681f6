"""Ask one model every question, and keep every answer.

An engine, a prompter and questions in; a polars frame with one row per answer out. It scores answers and compares
nothing: that is `scores`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from stages.evaluation.attacks import ATTACKS, Ask, AttackName, Materials, plainly
from stages.evaluation.measures.refusing import load_refusals
from stages.evaluation.measures.scoring import score_answer
from stages.evaluation.questions import Question, all_answers
from stages.language_model.engine import Engine
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter

# control: a model that never knew what is to be forgotten.
ModelRole = Literal["base", "teacher", "student", "control"]

ANSWER_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "number": pl.Int64,
    "attack": pl.String,
    "supplies_answer": pl.Boolean,
    "group": pl.String,
    "question": pl.String,
    "asked": pl.String,
    "answer_start": pl.String,
    "reference": pl.String,
    "answer": pl.String,
    "thinking": pl.String,
    "tokens": pl.Int64,
    "cut": pl.Boolean,
    "rouge_l_recall": pl.Float64,
    "rouge_l_f1": pl.Float64,
    "exact": pl.Boolean,
    "in_full": pl.Boolean,
    "leaked": pl.Boolean,
    "right": pl.Boolean,
    "refused": pl.Boolean,
    "degenerate": pl.Boolean,
    "log_probability": pl.Float64,
}


@dataclass(frozen=True)
class Item:
    """One question of the plan: number `number` of its file, from 0, and what is put to the model for it.

    rivals: every answer of the file, its own among them: whoever lists them all knows none.
    """

    file: str
    number: int
    attack: AttackName | None
    question: Question
    ask: Ask
    rivals: tuple[str, ...] = ()


def plan(
    files: Mapping[str, Sequence[Question]],
    attacks: Sequence[AttackName],
    attacked: Mapping[str, Materials],
    numbers: Mapping[str, Sequence[int]] | None = None,
) -> list[Item]:
    """Every question of every file, then each attack on each attacked file, or on these of its questions."""
    items = [
        Item(file, number, None, question, plainly(question), rivals)
        for file, questions in files.items()
        for rivals in [all_answers(questions)]
        for number, question in enumerate(questions)
    ]
    items += [
        Item(file, number, attack, materials.questions[number], ATTACKS[attack].rewrite(number, materials), rivals)
        for attack in attacks
        for file, materials in attacked.items()
        for rivals in [all_answers(materials.questions)]
        for number in (range(len(materials.questions)) if numbers is None else numbers[file])
    ]
    return items


def spread(count: int, most: int | None) -> list[int]:
    """At most so many of the places 0 … count - 1, evenly spread; None: all."""
    chosen = count if most is None else min(most, count)
    return [place * count // chosen for place in range(chosen)]


def interview(
    engine: Engine,
    prompter: Prompter,
    items: Sequence[Item],
    *,
    role: ModelRole,
    prefix: Prefix | None,
    max_tokens: int,
    refusals: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Greedy answers of one model to every item of the plan.

    role, prefix: the teacher is the base model with a prefix; the others have none.
    refusals: a file of sentences that count as refusals besides ours; raises SettingsError if it holds something else.
    Returns one row per answer, columns `ANSWER_SCHEMA`; attack is null where there was none. ROUGE is 0–1.
    answer: what is scored, behind any thinking, which stands in a column of its own; empty if the thinking took all tokens.
    cut: the token limit ended it, and not the model.
    log_probability is null until `fluency` has scored it.
    """
    sentences = load_refusals(refusals)
    prompts = [prompt_ids(prompter, item.ask, prefix) for item in items]
    said = engine.continue_greedily(prompts, max_tokens=max_tokens, advance=advance)
    records = []
    for item, prompt, continuation in zip(items, prompts, said, strict=True):
        # Words that were put into the model's mouth are not its answer.
        thinking, answer = prompter.split(continuation.token_ids.tolist(), prompt_ids=prompt)
        cut = not continuation.ended
        if item.ask.form != "own":
            # Without a template nothing ends a turn: the first line is the answer, further questions may follow it.
            answer, line_end, _ = answer.partition("\n")
            answer, cut = answer.rstrip(), cut and not line_end
        scores = score_answer(
            answer,
            item.ask.references,
            question=item.question.question,
            rivals=item.rivals,
            refusals=sentences,
        )
        records.append(
            {
                "model": role,
                "file": item.file,
                "number": item.number,
                "attack": item.attack,
                "supplies_answer": item.attack is not None and ATTACKS[item.attack].supplies_answer,
                "group": item.question.group or item.question.question,
                "question": item.question.question,
                "asked": item.ask.query,
                "answer_start": item.ask.answer_start,
                "reference": item.ask.references[0],
                "answer": answer,
                "thinking": thinking,
                "tokens": len(continuation.token_ids),
                "cut": cut,
                **vars(scores),
            }
        )
    return pl.DataFrame(records, schema=ANSWER_SCHEMA)


def longest_prompt(prompter: Prompter, items: Sequence[Item], prefix: Prefix | None) -> int:
    """Tokens of the longest prompt that `interview` will send."""
    return max(len(prompt_ids(prompter, item.ask, prefix)) for item in items)


def prompt_ids(prompter: Prompter, ask: Ask, prefix: Prefix | None) -> list[int]:
    """Token ids of what is put to the model, behind the prefix if there is one."""
    if ask.form == "bare":
        return prompter.bare_ids(ask.query, prefix)
    used = prompter.plain if ask.form == "plain" else prompter
    return used.ids(ask.query, prefix, turns=ask.turns, answer_start=ask.answer_start, may_think=True)
