"""One answer and its references in, figures out; many figures in, a mean with its interval out."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from scipy import stats

from stages.texts import is_character_word, words

# Openings by which a model declines or says that it does not know. Matched anywhere: "Paris. I'm sorry, …" is rare,
# "Unfortunately, I don't know" is common.
REFUSAL = re.compile(
    r"\b(?:"
    r"i(?:'|’)?m (?:really |very |so )?sorry|i am (?:really |very |so )?sorry|i apologi[sz]e"
    r"|i (?:do not|don(?:'|’)?t) (?:know|have (?:any |the |enough )?(?:information|knowledge|idea)|recall|remember)"
    r"|i (?:cannot|can(?:'|’)?t|can not|am unable to|am not able to|have no (?:information|knowledge|idea|memory))"
    r"|i(?:'|’)m (?:unable to|not able to|not sure|not aware|not familiar)|i am (?:not sure|not aware|not familiar)"
    r"|i have forgotten|i(?:'|’)ve forgotten"
    r")",
    re.IGNORECASE,
)
LONGEST_PHRASE_WORDS = 8
# Where a word is a character, a phrase has more of them.
LONGEST_PHRASE_CHARACTERS = 32
REPEATS_IN_A_ROW = 3
BOOTSTRAP_RESAMPLES = 2000


class WordTokenizer(Tokenizer):  # type: ignore[misc]
    """Words of any script, without case and accents, so that "Bogotá" equals "Bogota". ROUGE's own drops non-ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@dataclass(frozen=True)
class AnswerScores:
    """Figures of one answer: ROUGE-L against the reference that it fits best, 0–1; the rest is yes or no.

    exact: the answer is a reference and nothing else. in_full: all words of a reference stand in it, one after another.
    """

    rouge_l_recall: float
    rouge_l_f1: float
    exact: bool
    in_full: bool
    refused: bool
    degenerate: bool


_ROUGE = RougeScorer(["rougeL"], tokenizer=WordTokenizer())


def score_answer(answer: str, references: Sequence[str]) -> AnswerScores:
    """Score one answer. references: the reference answer and its aliases; the best counts."""
    said, wanted = words(answer), [words(reference) for reference in references]
    fits = [_ROUGE.score(reference, answer)["rougeL"] for reference in references]
    return AnswerScores(
        rouge_l_recall=max(fit.recall for fit in fits),
        rouge_l_f1=max(fit.fmeasure for fit in fits),
        exact=said in wanted,
        in_full=any(stands_in(reference, said) for reference in wanted),
        refused=bool(REFUSAL.search(answer)),
        degenerate=is_degenerate(answer),
    )


def stands_in(phrase: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the words of the phrase stand in what was said, one after another. A phrase without words never does."""
    size = len(phrase)
    return bool(size) and any(said[at : at + size] == phrase for at in range(len(said) - size + 1))


def is_degenerate(answer: str) -> bool:
    """Whether the answer has no word, or repeats a phrase three times in a row ("I'm sorry I'm sorry …").

    The phrase has up to 8 words, or up to 32 of those that are a character.
    """
    said = words(answer)
    if not said:
        return True
    longest = LONGEST_PHRASE_CHARACTERS if any(map(is_character_word, said)) else LONGEST_PHRASE_WORDS
    for size in range(1, longest + 1):
        same = [a == b for a, b in zip(said, said[size:], strict=False)]
        run = 0
        for is_same in same:
            run = run + 1 if is_same else 0
            # A phrase said r times in a row makes (r - 1) × size words equal to the word one phrase earlier.
            if run >= (REPEATS_IN_A_ROW - 1) * size:
                return True
    return False


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval (percentile); low and high are None where n < 2."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_with_interval(values: Sequence[float]) -> Interval:
    """Mean over questions, resampled 2 000 times with a fixed seed. Raises ValueError on no values."""
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        raise ValueError("a mean over nothing is not a score")
    mean = float(data.mean())
    if len(data) < 2:
        return Interval(mean, None, None, len(data))
    with warnings.catch_warnings():
        # All values equal: the interval is that value, and scipy says so in a warning.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap((data,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", rng=0)
    interval = found.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), len(data))
