"""Membership inference: does the model still tell the true answers from others by how likely it finds them?

An engine and questions in; one row per answer with two scores, and how well each score parts the two sides, out. An AUC
of 50 is what a model that knows nothing of the facts scores in expectation. Above it, it still knows them; below it, it
avoids them, which gives them away as well.
"""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse, stats

from stages.errors import DataError
from stages.evaluation.completions import completion_ids
from stages.evaluation.interview import ModelRole
from stages.evaluation.measures.phrases import stands_in
from stages.evaluation.metrics import BOOTSTRAP_RESAMPLES
from stages.evaluation.questions import Question
from stages.language_model.engine import Engine
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter
from stages.logit_cache.fingerprint import sha256_json
from stages.texts import words

MEMBERSHIP_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "number": pl.Int64,
    "question": pl.String,
    "answer": pl.String,
    "member": pl.Boolean,
    "compared_with": pl.String,
    "tokens": pl.Int64,
    "loss": pl.Float64,
    "min_k": pl.Float64,
}
MEMBERSHIP_SCORE_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "score": pl.String,
    "compared_with": pl.String,
    "auc": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "n_others": pl.Int64,
    "expected": pl.Float64,
}
SCORES = ("loss", "min_k")
SWAPPED = "the same questions with each other's answers"
# Share of an answer's tokens, the least likely ones, that Min-K % takes. Shi et al. 2024, section 5.1.
LEAST_LIKELY = 0.2
POINTS = 100.0
EXPECTED = 50.0


@dataclass(frozen=True)
class MembershipItem:
    """One answer to be scored behind its question. member: it is the true answer of a fact to be forgotten."""

    file: str
    number: int
    question: Question
    answer: str
    member: bool
    compared_with: str


def membership_items(
    files: Mapping[str, Sequence[Question]], others: Mapping[str, Sequence[Question]]
) -> list[MembershipItem]:
    """The true answers of every file, each file followed by the answers that it is compared with.

    files: what was to be forgotten. others: for a file, questions with their true answers on facts that the model was never
    trained on. A file without such others is compared with itself: its own questions, each with another one's answer that
    is none of its own (`swapped_answers`).
    """
    items: list[MembershipItem] = []
    for file, questions in files.items():
        compared_with = "facts that were never trained on" if file in others else SWAPPED
        strange = others.get(file, questions)
        answers = [each.answer for each in strange] if file in others else swapped_answers(file, questions)
        items += [
            MembershipItem(file, number, each, each.answer, True, compared_with)
            for number, each in enumerate(questions)
        ]
        items += [
            MembershipItem(file, number, each, answer, False, compared_with)
            for number, (each, answer) in enumerate(zip(strange, answers, strict=True))
        ]
    return items


def swapped_answers(file: str, questions: Sequence[Question]) -> list[str]:
    """Every question's answer given to another question of the file, where no reference contains it or stands in it.

    The same questions get the same answers on every machine: the order is drawn with a seed that is a hash of them.
    Raises DataError if the answers cannot be given out so, as where half of them are the same.
    """
    said = [words(each.answer) for each in questions]
    known = [[words(reference) for reference in each.references] for each in questions]
    order = list(range(len(questions)))
    random.Random(sha256_json([[each.question, each.answer] for each in questions])).shuffle(order)
    allowed_QA = np.array(
        [[not any(_alike(said[to], own) for own in known[at]) for to in order] for at in range(len(questions))]
    )
    chosen = sparse.csgraph.maximum_bipartite_matching(sparse.csr_array(allowed_QA), perm_type="column")
    if left := int((chosen < 0).sum()):
        raise DataError(
            f"The answers of {file} are too much alike to be swapped: no wrong one is left for {left} of its questions.",
            "Membership is inferred by comparing true answers with wrong ones.",
            "Name a file of facts that were never trained on to compare with.",
        )
    return [questions[order[place]].answer for place in chosen]


def membership(
    engine: Engine,
    prompter: Prompter,
    files: Mapping[str, Sequence[Question]],
    others: Mapping[str, Sequence[Question]],
    *,
    role: ModelRole,
    prefix: Prefix | None,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Both scores of every answer behind its question: natural log-probabilities per token, more is likelier.

    files, others: as in `membership_items`. The answer's tokens are those of `completion_ids`.
    loss: mean over all tokens, that is, minus the loss. min_k: mean over the 20 % least likely ones, at least one (Min-K %
    Prob, Shi et al. 2024, arXiv 2310.16789).
    Returns one row per answer, columns `MEMBERSHIP_SCHEMA`. The engine must have been started for log-probabilities.
    """
    items = membership_items(files, others)
    texts = [completion_ids(prompter, item.question, item.answer, prefix) for item in items]
    scored = engine.log_probabilities([prompt for prompt, _ in texts], [answer for _, answer in texts], advance=advance)
    records = [
        {
            "model": role,
            "file": item.file,
            "number": item.number,
            "question": item.question.question,
            "answer": item.answer,
            "member": item.member,
            "compared_with": item.compared_with,
            "tokens": len(values_T),
            "loss": float(values_T.mean()),
            "min_k": least_likely(values_T),
        }
        for item, values_T in zip(items, scored, strict=True)
    ]
    return pl.DataFrame(records, schema=MEMBERSHIP_SCHEMA)


def longest_membership(
    prompter: Prompter,
    files: Mapping[str, Sequence[Question]],
    others: Mapping[str, Sequence[Question]],
    prefix: Prefix | None,
) -> int:
    """Tokens of the longest prompt with its answer, and the one that an engine makes after it."""
    items = membership_items(files, others)
    return max(sum(map(len, completion_ids(prompter, item.question, item.answer, prefix))) for item in items) + 1


def membership_scores(found: pl.DataFrame) -> pl.DataFrame:
    """Tidy: per model, file and score the AUC in points with its 95 % bootstrap interval.

    auc: chance that a true answer scores higher than one of the others, both drawn at random; a tie counts half. Unpaired
    also where the others are swapped: a question's own two answers are only one pair among many.
    The interval resamples both sides by themselves; where they share their questions, it resamples questions.
    n, n_others: answers on the two sides. expected: AUC of a model that knows nothing of the facts. Swapped, both sides
    hold the same questions and the same answers, so only what ties an answer to its question can part them: knowledge,
    but also a likeness of the two ("Mexico", "Mexico City"). With other facts on the other side, it holds only as far as
    those are worded alike.
    """
    rows = []
    for (model, file, compared_with), group in found.group_by(["model", "file", "compared_with"], maintain_order=True):
        members, others = (group.filter(pl.col("member") == side).sort("number") for side in (True, False))
        for score in SCORES:
            true, other = members[score].to_numpy(), others[score].to_numpy()
            low, high = _interval(true, other, paired=compared_with == SWAPPED)
            rows.append(
                {
                    "model": model,
                    "file": file,
                    "score": score,
                    "compared_with": compared_with,
                    "auc": float(auc_points(true, other)),
                    "low": low,
                    "high": high,
                    "n": len(true),
                    "n_others": len(other),
                    "expected": EXPECTED,
                }
            )
    return pl.DataFrame(rows, schema=MEMBERSHIP_SCORE_SCHEMA)


def _alike(one: list[str], other: list[str]) -> bool:
    return one == other or stands_in(one, other) or stands_in(other, one)


def least_likely(values_T: np.ndarray) -> float:
    """Mean of the 20 % lowest values, rounded down to whole tokens, but at least one."""
    return float(np.sort(values_T)[: max(int(LEAST_LIKELY * len(values_T)), 1)].mean())


def auc_points(true: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    """Area under the ROC curve in points, along one axis: share of pairs that the true one wins, ties one half."""
    pairs = true.shape[axis] * other.shape[axis]
    won = stats.mannwhitneyu(true, other, axis=axis, method="asymptotic").statistic
    return np.asarray(POINTS * won / pairs)


def _interval(true: np.ndarray, other: np.ndarray, *, paired: bool) -> tuple[float | None, float | None]:
    """95 % percentile interval of the AUC; None for fewer than two answers on a side."""
    if min(len(true), len(other)) < 2:
        return None, None
    with warnings.catch_warnings():
        # All resamples alike: the interval is that value, and scipy says so in a warning.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (true, other), auc_points, paired=paired, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", rng=0
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
