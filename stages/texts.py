"""Text that people wrote: is there anything to be seen in it, what are its words, and do two texts say the same?"""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

# Neither of these is for eyes: formats, spaces and line ends, controls, halves of characters, private use.
UNSEEN_CATEGORIES = {"Cf", "Zs", "Zl", "Zp", "Cc", "Cs", "Co"}
# Letters, symbols and marks by category that are drawn as nothing: blanks, fillers, joiners, variation selectors.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# All of Cc but tab and the two line ends.
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
WORD = re.compile(r"\w")
ASCII_WORD = re.compile(r"\w+", re.ASCII)
# Accents of Latin, Greek and Cyrillic, and the points of Hebrew and Arabic: people write a word with them or without.
ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670]")
# Letters of Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese and Korean.
UNSPACED = re.compile(
    "[\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf\u0f40-\u0f6c\u1000-\u102a\u1050-\u1055\u1780-\u17b3"
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    "\U00020000-\U000323af]"
)
SURROGATES = re.compile("[\ud800-\udfff]")


def is_blank(text: str) -> bool:
    """Whether nothing in the text can be seen: no character, or only spaces, formats and fillers."""
    return all(unicodedata.category(each) in UNSEEN_CATEGORIES or UNSEEN.match(each) for each in text)


def seen(text: str) -> str:
    """The text without characters that are drawn as nothing, such as zero-width joiners and fillers."""
    if text.isascii():
        return text
    formats = [each for each in set(text) if unicodedata.category(each) == "Cf"]
    return UNSEEN.sub("", text.translate(dict.fromkeys(map(ord, formats))) if formats else text)


def same_text(text: str) -> str:
    """What two texts have in common that a reader takes for one: without case, invisible characters, repeated spaces.

    To compare by, never to show: characters are composed (NFC) and folded.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen(text)).casefold())
    return " ".join(folded.split())


def words(text: str) -> list[str]:
    """Lower-case words without accents; where a script puts no spaces between words, or Korean a particle behind one,
    each character by itself.

    A mark that is part of a letter, such as a vowel of Hindi or the voicing of Japanese, stays with it.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    found: list[str] = []
    # No word goes on behind a space, so only what is not ASCII takes the slow way.
    for piece in text.split():
        found += ASCII_WORD.findall(piece.lower()) if piece.isascii() else _words_of_any_script(piece)
    return found


def _words_of_any_script(text: str) -> list[str]:
    joined = "".join(c for c in text if unicodedata.category(c) != "Cf")
    plain = ACCENTS.sub("", unicodedata.normalize("NFKD", joined.casefold()))
    found: list[str] = []
    within = False
    for character in unicodedata.normalize("NFC", plain):
        is_mark = unicodedata.category(character).startswith("M")
        goes_on = within and (is_mark or not (is_character_word(character) or is_character_word(found[-1])))
        within = goes_on if is_mark else bool(WORD.match(character))
        if goes_on and within:
            found[-1] += character
        elif within:
            found.append(character)
    return found


def is_character_word(word: str) -> bool:
    """Whether the word is one character of a script that puts no spaces between words."""
    return bool(UNSPACED.match(word))


def unfit_character(text: str) -> str | None:
    """In words, the first character that no text may hold; None if there is none."""
    if found := CONTROLS.search(text):
        return f"the control character U+{ord(found[0]):04X}"
    if found := SURROGATES.search(text):
        return f"half of a character, U+{ord(found[0]):04X}"
    return None


def _visible(text: str) -> str:
    if text and is_blank(text):
        raise PydanticCustomError("blank", "nothing in this text can be seen")
    return text


# May be left out, and then is empty.
OptionalText = Annotated[str, AfterValidator(_visible)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_visible)]
