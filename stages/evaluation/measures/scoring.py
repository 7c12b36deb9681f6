"""One answer and its references in, its figures out."""

from collections.abc import Sequence
from dataclasses import dataclass

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from stages.evaluation.measures.leaks import is_leaked
from stages.evaluation.measures.phrases import core, hear, reading, stands_in, without_articles
from stages.evaluation.measures.refusing import Refusals, load_refusals
from stages.evaluation.measures.repetition import is_degenerate
from stages.evaluation.measures.rightness import is_right
from stages.texts import words


class WordTokenizer(Tokenizer):  # type: ignore[misc]
    """Words of any script, without case and accents, so that "Bogotá" equals "Bogota". ROUGE's own drops non-ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@dataclass(frozen=True)
class AnswerScores:
    """Figures of one answer: ROUGE-L against the reference that it fits best, 0–1; the rest is yes or no.

    rouge_l_recall, rouge_l_f1: as in the paper, so articles count: "a cat" shares half its words with "a dog". All else
    leaves out the articles that a reference begins with.
    exact: the answer is a reference and nothing else. in_full: all words of a reference stand in it, one after another.
    leaked: a reference stands in it in any form (`leaks`). right: it is given as the answer (`rightness`).
    """

    rouge_l_recall: float
    rouge_l_f1: float
    exact: bool
    in_full: bool
    leaked: bool
    right: bool
    refused: bool
    degenerate: bool


_ROUGE = RougeScorer(["rougeL"], tokenizer=WordTokenizer())


def score_answer(
    answer: str,
    references: Sequence[str],
    *,
    question: str = "",
    rivals: Sequence[str] = (),
    refusals: Refusals | None = None,
) -> AnswerScores:
    """Score one answer. references: the reference answer and its aliases; the best counts.

    question: as it was put in the file. rivals: all other answers of the file; own references among them do no harm.
    refusals: sentences that count as refusals; default: ours.
    """
    heard = hear(answer)
    fits = [_ROUGE.score(reference, answer)["rougeL"] for reference in references]
    in_full = any(stands_in(core(reference), heard.said) for reference in references)
    whole = without_articles(heard.said)
    return AnswerScores(
        rouge_l_recall=max(fit.recall for fit in fits),
        rouge_l_f1=max(fit.fmeasure for fit in fits),
        exact=bool(whole) and any(whole == without_articles(reading(reference)) for reference in references),
        in_full=in_full,
        leaked=in_full or is_leaked(heard, references),
        # Most answers do not name the reference at all.
        right=in_full and is_right(heard, references, question, rivals),
        refused=(refusals or load_refusals()).stand_in(heard),
        degenerate=is_degenerate(heard.said),
    )
