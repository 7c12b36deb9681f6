"""Text that people wrote: is there anything to be seen in it, and do two texts say the same?"""

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
SURROGATES = re.compile("[\ud800-\udfff]")


def is_blank(text: str) -> bool:
    """Whether nothing in the text can be seen: no character, or only spaces, formats and fillers."""
    return all(unicodedata.category(each) in UNSEEN_CATEGORIES or UNSEEN.match(each) for each in text)


def same_text(text: str) -> str:
    """What two texts have in common that a reader takes for one: without case, invisible characters, repeated spaces.

    To compare by, never to show: characters are composed (NFC) and folded.
    """
    seen = "".join(each for each in text if unicodedata.category(each) != "Cf" and not UNSEEN.match(each))
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).casefold())
    return " ".join(folded.split())


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
