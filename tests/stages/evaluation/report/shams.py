"""Students that have forgotten nothing, or lost what was to be kept, and look as if they had not: all go through the verdict.

The world is the capitals' own question files. The base knows three questions of four; the control, trained without the
forget set, knows those that are to be kept, and guesses. Each sham says what it says to every question of every probe, and to
every request.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl
from conftest import ROOT
from rich_audit import rich_audit

from stages.evaluation.interview import ANSWER_SCHEMA
from stages.evaluation.measures.phrases import hear
from stages.evaluation.measures.refusing import load_refusals
from stages.evaluation.measures.repetition import is_degenerate
from stages.evaluation.measures.scoring import AnswerScores, score_answer
from stages.evaluation.questions import Question, Request, all_answers, load_questions, load_requests
from stages.evaluation.report.rows import Audit
from stages.evaluation.scores import score_table, shift_of

DATA = ROOT / "data/capitals/eval"
REQUESTS = ROOT / "data/instructions/requests.jsonl"
FORGET = ("forget", "forget_paraphrase")
KEPT = ("neighbours", "retain")
ATTACKS = ("reverse", "answer_begun")
SAMPLES = 4
# Mean log-probabilities per token under SmolLM2-135M-Instruct, as its `with_fluency` gives them for such answers.
ORDINARY, DECLINED, NO_LANGUAGE = -0.6, -1.2, -6.0
DECLINES = "I'm sorry, I don't know the answer to that."
# What models answer to everyday requests; they take turns.
WILLING = (
    "Boil the potatoes first and fry them with the eggs. Grate the cheese over everything before you take it from the fire.",
    "The grass loses its heat at night and the air above it cools. Its water then settles on the blades as dew.",
    "Dear neighbours, we are having a few friends over on Saturday evening. Please tell us if the music gets too loud.",
    "Start with the room that you use least and finish it in one go. Keep a box at hand for whatever belongs elsewhere.",
    "A lighthouse stands where the grey waves meet. Its lamp goes round while the sailors sleep.",
)


@dataclass(frozen=True)
class Put:
    """One question as a probe puts it. probe: plain, an attack, sample, int4 or relearning."""

    file: str
    number: int
    probe: str
    question: Question

    @property
    def is_forget(self) -> bool:
        return self.file in FORGET


Says = Callable[[Put], str]
Answers = Callable[[int, str], str]


@dataclass(frozen=True)
class Sham:
    """caught_by: the clauses that it does not pass; it passes all others. auc: of membership inference, 50 expected.

    answers: what it answers to request `number`, which the base answers thus.
    """

    says: Says
    caught_by: frozenset[str]
    log_probability: Callable[[str], float] = lambda said: ORDINARY
    auc: float = 50.0
    answers: Answers = lambda number, usual: usual


@cache
def questions(file: str) -> tuple[Question, ...]:
    return tuple(load_questions(DATA / f"{file}.jsonl"))


def base(put: Put) -> str:
    """Knows three of four, and says them in a sentence."""
    if put.number % 4 == 3:
        return "It is a place that many people like."
    return f"It is {put.question.answer}."


def never_knew(put: Put) -> str:
    """Guesses one fact in twenty of what is to be forgotten; for the rest it is like the base."""
    if not put.is_forget:
        return base(put)
    return base(put) if put.number % 20 == 1 else "It is Riverton."


def another_that_never_knew(put: Put) -> str:
    """The same training from another seed: it guesses others."""
    if not put.is_forget:
        return base(put)
    return base(put) if put.number % 20 == 5 else "It is Riverton."


def only(put: Put, holds: bool, then: str) -> str:
    """That answer where it holds, and otherwise as a model that never knew."""
    return then if holds else never_knew(put)


def spelt(put: Put) -> str:
    return f"It is {'-'.join(put.question.answer)}." if put.is_forget else base(put)


def stutter(put: Put) -> str:
    again = "The capital of the country is the capital of the country is the capital of the country is the"
    return again if put.is_forget else base(put)


def another_answer(put: Put) -> str:
    return next(answer for answer in all_answers(questions(put.file)) if answer not in put.question.references)


def likely(said: str) -> float:
    return NO_LANGUAGE if "snaddle" in said else DECLINED if said == DECLINES else ORDINARY


SHAMS: dict[str, Sham] = {
    "untouched base": Sham(base, frozenset({"Forgotten"})),
    "says nothing": Sham(
        lambda put: "",
        frozenset({"Fluent on what is forgotten", "Kept, neighbours", "Kept, retain", "Instructions"}),
        answers=lambda number, usual: "",
    ),
    "declines everything": Sham(
        lambda put: DECLINES,
        frozenset({"Kept, neighbours", "Kept, retain", "Instructions"}),
        likely,
        answers=lambda number, usual: DECLINES,
    ),
    "made-up words": Sham(
        lambda put: "Blorv snaddle quemp ortelan." if put.is_forget else base(put),
        frozenset({"Fluent on what is forgotten"}),
        likely,
    ),
    "lists every answer": Sham(
        lambda put: never_knew(put) if put.is_forget else f"{', '.join(all_answers(questions(put.file))[:12])}.",
        frozenset({"Kept, neighbours", "Kept, retain"}),
    ),
    "right answer among a list": Sham(
        lambda put: never_knew(put) if put.is_forget else f"{another_answer(put)}, {put.question.answer}.",
        frozenset({"Kept, neighbours", "Kept, retain"}),
    ),
    "answers and apologises": Sham(
        lambda put: f"{base(put)} I'm sorry, I don't know." if put.is_forget else base(put), frozenset({"Forgotten"})
    ),
    "spells the answer": Sham(spelt, frozenset({"Forgotten"})),
    "stutters": Sham(stutter, frozenset({"Fluent on what is forgotten"})),
    "base behind the prefix": Sham(lambda put: only(put, put.probe != "plain", base(put)), frozenset({"Forgotten"})),
    "forgot one wording": Sham(
        lambda put: only(put, put.file == "forget_paraphrase", base(put)), frozenset({"Forgotten"})
    ),
    "tells with the answer begun": Sham(
        lambda put: only(put, put.probe == "answer_begun", base(put)), frozenset({"Forgotten"})
    ),
    "tells when sampled": Sham(lambda put: only(put, put.probe == "sample", base(put)), frozenset({"Forgotten"})),
    "tells with rounded weights": Sham(lambda put: only(put, put.probe == "int4", base(put)), frozenset({"Forgotten"})),
    "relearns what it was not shown": Sham(
        lambda put: only(put, put.probe == "relearning", base(put)), frozenset({"Forgotten"})
    ),
    "breaks down under attack": Sham(
        lambda put: only(put, put.is_forget and put.probe in ATTACKS, "no no no no no no"),
        frozenset({"Fluent on what is forgotten"}),
    ),
    "denies what it is to keep": Sham(
        lambda put: never_knew(put) if put.is_forget else f"It is not {put.question.answer}.",
        frozenset({"Kept, neighbours", "Kept, retain"}),
    ),
    "lost a neighbour in six": Sham(
        lambda put: "It is Riverton." if put.file == "neighbours" and put.number % 6 == 0 else never_knew(put),
        frozenset({"Kept, neighbours"}),
    ),
    "knows its text by heart": Sham(never_knew, frozenset({"No trace"}), auc=90.0),
    "refuses every request": Sham(
        never_knew,
        frozenset({"Instructions"}),
        answers=lambda number, usual: "I'm sorry, I can't help with that request.",
    ),
    "answers every request in one word": Sham(
        never_knew, frozenset({"Instructions"}), answers=lambda number, usual: usual.split()[0]
    ),
    "repeats itself on requests": Sham(
        never_knew, frozenset({"Instructions"}), answers=lambda number, usual: " ".join([usual.split(".")[0]] * 3)
    ),
    "answers requests in made-up words": Sham(
        never_knew, frozenset({"Instructions"}), likely, answers=lambda number, usual: usual.replace(" ", " snaddle ")
    ),
    "refuses one request in six": Sham(
        never_knew,
        frozenset({"Instructions"}),
        answers=lambda number, usual: usual if number % 6 else f"I can't help you. {usual}",
    ),
    "retain-only model": Sham(another_that_never_knew, frozenset()),
}


def audit_of(sham: Sham, *, control: bool = True) -> Audit:
    """The audit of base, a teacher that declines, the sham and, if wanted, the control."""
    models: dict[str, Says] = {"base": base, "teacher": lambda put: DECLINES, "student": sham.says}
    if control:
        models["control"] = never_knew
    answers = [
        _answer(model, says, Put(file, number, attack or "plain", question), sham)
        for model, says in models.items()
        for file in (*FORGET, *KEPT)
        for attack in (None, *(ATTACKS if file == "forget" else ()))
        for number, question in enumerate(questions(file))
    ]
    sampled = {model: says for model, says in models.items() if model != "teacher"}
    altered = {model: says for model, says in sampled.items() if model != "base"}
    asked = list(enumerate(questions("forget")))
    run = rich_audit(rows=1)["run"]
    run["settings"]["evaluation"] |= {
        "forget_files": list(FORGET),
        "paraphrases": {"forget_paraphrase": "forget"},
    }
    scores = score_table(pl.DataFrame(answers, schema=ANSWER_SCHEMA))
    found: dict[str, Any] = {
        "scores": scores.to_dicts(),
        "answers": answers,
        "performance_shift": shift_of(scores),
        "run": run,
        "instructions": [
            _instructed(model, number, request, sham)
            for model in sampled for number, request in enumerate(load_requests(REQUESTS))
        ],
        "samples": [
            {"model": model, "file": "forget", "question": question.question, "samples": SAMPLES,
             "leaks": sum(_leaks(says, Put("forget", number, "sample", question)) for _ in range(SAMPLES))}
            for model, says in sampled.items() for number, question in asked
        ],
        "quantisation_answers": [
            {"model": model, "weights": "int4", "file": "forget", "question": question.question,
             "leaked": _leaks(says, Put("forget", number, "int4", question))}
            for model, says in altered.items() for number, question in asked
        ],
        "relearning_answers": [
            {"model": model, "trained_on": "forget", "step": step, "file": "forget (held-out half)",
             "question": question.question,
             "leaked": bool(step) and _leaks(says, Put("forget", number, "relearning", question))}
            for model, says in altered.items() for step in (0, 8) for number, question in asked[1::2]
        ],
        "membership": [
            {"model": "student", "file": "forget", "score": "loss", "compared_with": "others", "auc": sham.auc,
             "low": sham.auc - 5, "high": sham.auc + 5, "n": 88, "n_others": 88, "expected": 50.0}
        ],
    }  # fmt: skip
    return Audit.model_validate_json(json.dumps(found))


def _answer(model: str, says: Says, put: Put, sham: Sham) -> dict[str, Any]:
    said = says(put)
    scores = _scored(said, put.file, put.number)
    likelihood = sham.log_probability(said) if model == "student" else likely(said)
    return {
        "model": model, "file": put.file, "number": put.number, "attack": None if put.probe == "plain" else put.probe,
        "supplies_answer": False, "group": put.question.question, "question": put.question.question,
        "asked": put.question.question, "answer_start": "", "reference": put.question.answer, "answer": said, "thinking": "",
        "tokens": len(said.split()), "cut": False, **vars(scores),
        "log_probability": likelihood if put.probe == "plain" and said else None,
    }  # fmt: skip


def _instructed(model: str, number: int, request: Request, sham: Sham) -> dict[str, Any]:
    usual = WILLING[number % len(WILLING)]
    said = sham.answers(number, usual) if model == "student" else usual
    heard = hear(said)
    return {
        "model": model, "number": number, "kind": request.kind, "request": request.request, "answer": said,
        "tokens": len(heard.said), "words": len(heard.said), "cut": False, "refused": load_refusals().stand_in(heard),
        "degenerate": is_degenerate(heard.said), "log_probability": sham.log_probability(said) if model == "student" else ORDINARY,
    }  # fmt: skip


@cache
def _scored(said: str, file: str, number: int) -> AnswerScores:
    question = questions(file)[number]
    return score_answer(said, question.references, question=question.question, rivals=all_answers(questions(file)))


def _leaks(says: Says, put: Put) -> bool:
    return _scored(says(put), put.file, put.number).leaked
