"""Is the reference given as the answer, rather than denied, listed among others, or mentioned in passing?

The rule: the first sentence, or its first 25 words, names the reference, does not deny it, and names it before any
other answer of the file, of which it may name one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from stages.evaluation.measures.languages import ABBREVIATIONS, DENIED_AFTER, DENIED_BY, TURNS, Phrase
from stages.evaluation.measures.phrases import Heard, core, reading, stands_in
from stages.texts import is_character_word, words

MOST_WORDS = 25
MOST_CHARACTERS = 60
# "Sure!" and "Paris." are no sentence yet.
LEAST_WORDS = 3
MOST_RIVALS = 1
# How many words a denial reaches: "not in the city of" Paris.
REACH = 4
REACH_CHARACTERS = 6
# Full stops and exclamation marks of all scripts, each with the quotes and markup that close behind it; and a line's end. A
# question mark ends nothing: "The capital of France? Paris."
SENTENCE_END = re.compile("(?P<latin>[.!]+)[\"'”’»)\\]*_]*(?=\\s|$)|[。！｡．।॥۔։።၊။។᠃᠉᙮꓿︒]+|\n")
# A line that begins so goes on with a list.
ITEM = re.compile(r"\s*(?:[-*•–]|\d{1,2}[.)])\s")
CLAUSE_END = re.compile("[,;:()\n—–、，；：؛،…]|\\s-+\\s")


@dataclass(frozen=True)
class Opening:
    """The first sentence of an answer. clauses: for each word the number of the clause that it stands in."""

    said: list[str]
    clauses: list[int]


def is_right(heard: Heard, references: Sequence[str], question: str = "", rivals: Sequence[str] = ()) -> bool:
    """Whether a reference is given as the answer. rivals: other answers of the file; those that stand in the question, or
    are a reference, are left out.
    """
    own = {phrase for reference in references if (phrase := core(reference))}
    if not own:
        return False
    opening = first_sentence(heard.shown, shortest=min(map(len, own)), longest=max(map(len, own)))
    taken: set[int] = set()
    given: int | None = None
    for start, end in _places(opening.said, _by_first_word(frozenset(own))):
        taken.update(range(start, end))
        if given is None and not _is_denied(opening, start, end):
            given = start
    if given is None:
        return False
    asked = _asked(question)
    others: dict[Phrase, int] = {}
    for start, end in _places(opening.said, _by_first_word_of(tuple(rivals)), taken):
        phrase = tuple(opening.said[start:end])
        if phrase not in own and not stands_in(phrase, asked) and not _is_denied(opening, start, end):
            others.setdefault(phrase, start)
    return len(others) <= MOST_RIVALS and all(start > given for start in others.values())


def first_sentence(shown: str, *, shortest: int = 1, longest: int = 1) -> Opening:
    """The words up to the first end of a sentence behind three words, or behind as many as the shortest reference has.

    At most 25 of them, or 60 that are one character each; a reference that begins there is kept whole.
    """
    least = max(LEAST_WORDS, shortest)
    end = next((at for at in _sentence_ends(shown) if len(words(shown[:at])) >= least), len(shown))
    said: list[str] = []
    clauses: list[int] = []
    for clause, part in enumerate(CLAUSE_END.split(shown[:end])):
        own = words(part)
        said += own
        clauses += [clause] * len(own)
    most = (MOST_CHARACTERS if any(map(is_character_word, said)) else MOST_WORDS) + longest - 1
    return Opening(said[:most], _with_turns(said[:most], clauses[:most]))


def _sentence_ends(shown: str) -> Iterator[int]:
    """Where sentences end. "St.", "D.C.", "1.", "…" and a full stop before a small letter end none."""
    for found in SENTENCE_END.finditer(shown):
        before = shown[: found.start()]
        if found["latin"]:
            last = words(before[-20:])[-1:]
            follows = shown[found.end() :].lstrip()
            abbreviated = bool(last) and found["latin"] == "." and _is_abbreviation(last[0])
            if (abbreviated and follows) or ".." in found["latin"] or follows[:1].islower():
                continue
        elif found[0] == "\n" and (before.rstrip().endswith((":", "：", ",")) or ITEM.match(shown, found.end())):
            continue
        yield found.end()


def _is_abbreviation(word: str) -> bool:
    """Whether a full stop behind the word may belong to it: an initial, the number of an item, or a listed one."""
    return len(word) == 1 or word in ABBREVIATIONS or (len(word) == 2 and word.isdecimal())


def _with_turns(said: list[str], clauses: list[int]) -> list[int]:
    """The same clauses, each cut once more where a word such as "but" turns it."""
    found, turned = [], 0
    starts = {start for start, _ in _places(said, _by_first_word(TURNS))}
    for place, clause in enumerate(clauses):
        turned += place in starts
        found.append(clause * (len(said) + 1) + turned)
    return found


def _is_denied(opening: Opening, start: int, end: int) -> bool:
    said, clauses = opening.said, opening.clauses
    reach = REACH_CHARACTERS if any(map(is_character_word, said[max(0, start - 2) : end])) else REACH
    for at in range(start - 1, -1, -1):
        if clauses[at] != clauses[start] or start - at > reach + 2:
            break
        for phrase in _by_first_word(DENIED_BY).get(said[at], ()):
            stop = at + len(phrase)
            if stop <= start and start - stop <= reach and tuple(said[at:stop]) == phrase:
                return True
    if end < len(said) and clauses[end] == clauses[end - 1]:
        return any(
            tuple(said[end : end + len(phrase)]) == phrase for phrase in _by_first_word(DENIED_AFTER).get(said[end], ())
        )
    return False


def _places(
    said: Sequence[str], phrases: dict[str, list[Phrase]], taken: set[int] | frozenset[int] = frozenset()
) -> Iterator[tuple[int, int]]:
    """Start and end of every phrase in what was said, the longest at each place, none within another or a taken place."""
    at = 0
    while at < len(said):
        for phrase in phrases.get(said[at], ()):
            end = at + len(phrase)
            if tuple(said[at:end]) == phrase and taken.isdisjoint(range(at, end)):
                yield at, end
                at = end - 1
                break
        at += 1


@lru_cache(maxsize=4096)
def _by_first_word(phrases: frozenset[Phrase]) -> dict[str, list[Phrase]]:
    """Phrases by their first word, the longest first."""
    found: dict[str, list[Phrase]] = {}
    for phrase in sorted(phrases, key=lambda each: (-len(each), each)):
        if phrase:
            found.setdefault(phrase[0], []).append(phrase)
    return found


@lru_cache(maxsize=64)
def _by_first_word_of(references: tuple[str, ...]) -> dict[str, list[Phrase]]:
    return _by_first_word(frozenset(map(core, references)))


@lru_cache(maxsize=4096)
def _asked(question: str) -> tuple[str, ...]:
    return tuple(reading(question))
