"""A text in, the words that answers are looked for in out; a reference in, the phrase that is looked for out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from stages.evaluation.measures.languages import ARTICLES, ENGLISH_ARTICLES, Phrase
from stages.texts import seen, words

# Letters and symbols that are drawn as a space, and the one that is not a letter to `words`.
BLANKS = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")
BLANK = "\u2800"
# 1,000 is 1000, and 3.8 is no 3 that an 8 follows. The underscore is a letter to `words`.
THOUSANDS = re.compile(r"(?<=\d)[,\u202f](?=\d{3}(?!\d))")
DECIMALS = re.compile(r"(?<=\d)[.,](?=\d)")


def clean(text: str) -> str:
    """The text without characters that are drawn as nothing, and with its numbers in one piece."""
    shown = text if text.isascii() else BLANK.join(map(seen, BLANKS.split(text)))
    return DECIMALS.sub("_", THOUSANDS.sub("", shown))


@dataclass(frozen=True)
class Heard:
    """An answer as it is looked through. shown: its text after `clean`; said: the words of that."""

    shown: str
    said: list[str]


def hear(answer: str) -> Heard:
    """An answer, ready to be looked through by every measure."""
    shown = clean(answer)
    return Heard(shown, words(shown))


def reading(text: str) -> list[str]:
    """The words of a text with its numbers in one piece: those of `words`, but for "3.8" and "1,000"."""
    return words(clean(text))


@lru_cache(maxsize=1 << 16)
def core(reference: str) -> Phrase:
    """The words of a reference without its leading articles; empty if it has no others.

    An article of another language than English counts as one where it is written small: "la Seine", but "La Paz" and
    "Die Zeit" are names.
    """
    said = reading(reference)
    first = 0
    while first < len(said) and (
        said[first] in ENGLISH_ARTICLES or (said[first] in ARTICLES and _written_small(reference, said[first]))
    ):
        first += 1
    return tuple(said[first:])


def without_articles(said: Sequence[str]) -> Phrase:
    """Words without any leading article, however it was written: to compare whole answers by."""
    first = next((place for place, word in enumerate(said) if word not in ARTICLES), len(said))
    return tuple(said[first:])


def _written_small(reference: str, article: str) -> bool:
    return re.search(rf"(?<!\w){article}(?!\w)", reference) is not None


def stands_in(phrase: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the words of the phrase stand in what was said, one after another. A phrase without words never does."""
    return place_of(phrase, said) is not None


def place_of(phrase: Sequence[str], said: Sequence[str], start: int = 0) -> int | None:
    """Where the phrase first stands in what was said, from `start` on."""
    size = len(phrase)
    if not size:
        return None
    wanted, first = list(phrase), phrase[0]
    for at in range(start, len(said) - size + 1):
        if said[at] == first and list(said[at : at + size]) == wanted:
            return at
    return None
