"""Does an answer stand in a text in any form: as words, spelt out, or broken up by hyphens, markup or what is unseen?

It does not decode: an answer that is reversed, in base 64, in another alphabet or described is not found.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from stages.evaluation.measures.languages import Phrase
from stages.evaluation.measures.phrases import Heard, core, reading, stands_in
from stages.texts import is_character_word, words

# A tag, and a hyphen at a line's end, inside a word.
TAG = re.compile(r"</?\w[^<>\n]{0,40}>")
LINE_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad][ \t]*\n\s*(?=[^\W\d_])")
# Anything but a space or an apostrophe between two letters. Not between digits: 1-2 is no 12. Not an apostrophe, or
# "I'll" would be "ill".
JOINER = re.compile(r"(?<=[^\W\d_])(?:[^\w\s'’]|_)+(?=[^\W\d_])")
# Shortest run of letters that is read as spelling: "I'd" is none.
SPELT_LETTERS = 3
# A reference is also looked for as one word ("NewDelhi", "DC") if it has so many letters: "U.S." is not "us".
JOINED_LETTERS = 6


def readings(heard: Heard) -> list[list[str]]:
    """The words, and those that stand there where signs inside words are overlooked, if they are others."""
    joined = JOINER.sub("", LINE_HYPHEN.sub("", TAG.sub("", heard.shown)))
    return [heard.said] if joined == heard.shown else [heard.said, words(joined)]


def spellings(said: Sequence[str]) -> list[str]:
    """Every run of at least three words that are one letter each, as one word."""
    found, run = [], ""
    letters = 0
    for word in (*said, ""):
        if is_single_letter(word):
            run += word
            letters += 1
            continue
        if letters >= SPELT_LETTERS:
            found.append(run)
        run, letters = "", 0
    return found


def is_single_letter(word: str) -> bool:
    """Whether the word is one letter with its marks, of a script in which a word has more."""
    return (
        bool(word)
        and word[0].isalpha()
        and not any(each.isalnum() for each in word[1:])
        and not is_character_word(word)
    )


@lru_cache(maxsize=1 << 14)
def forms(reference: str) -> tuple[Phrase, ...]:
    """The phrases that a reference is looked for as: its words, and those without the signs and spaces between them."""
    plain = core(reference)
    joined = tuple(words(JOINER.sub("", " ".join(_chunks(reference, plain)))))
    one = ("".join(plain),)
    others = [form for form in (joined, one) if form != plain and len("".join(form)) >= JOINED_LETTERS]
    return (plain, *dict.fromkeys(others))


def _chunks(reference: str, plain: Phrase) -> list[str]:
    """The reference as it is written, cut at spaces, without the articles that its core lacks."""
    chunks = reference.split()
    while chunks and len(reading(" ".join(chunks[1:]))) >= len(plain):
        chunks = chunks[1:]
    return chunks


def is_leaked(heard: Heard, references: Sequence[str]) -> bool:
    """Whether any reference stands in the answer in any form."""
    read = readings(heard)
    spelt = spellings(heard.said)
    for reference in references:
        if any(stands_in(form, each) for form in forms(reference) for each in read):
            return True
        letters = "".join(core(reference))
        if len(letters) >= SPELT_LETTERS and any(letters in run for run in spelt):
            return True
    return False
