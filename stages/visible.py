"""Text from elsewhere in, the same text out with every character in it to be seen.

What steers a terminal, reorders or hides what stands beside it becomes an escape such as `\\x1b` or `\\u202e`. Ordinary text of
any script stays as it is: a joiner in Persian, Hindi or an emoji is part of a word. Nothing here knows where the text goes.
"""

import json
import re
from collections.abc import Callable
from typing import Any

# Scripts and symbols in which U+200C and U+200D join or part letters: Hebrew to Mongolian, Arabic forms, Indic, emoji.
_JOINED = (
    "\u00a9\u00ae\u0590-\u1cff\u2190-\u2bff\u3030\u303d\ua800-\uabff\ufb1d-\ufdff\ufe0f\ufe70-\ufefc"
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f\U0001f000-\U0001faff"
)
# Scripts that put no spaces between words, where U+200B says that a line may end: Thai, Lao, Tibetan, Burmese, Khmer.
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f"
_HAN = "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
UNSEEN = re.compile(
    # The flags of England, Scotland, Wales and the like are a black flag with a short name in tags.
    "(?P<flag>\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)"
    # Controls but tab and line feed, a carriage return included: it lets what follows write over the line.
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Soft hyphen, marks and overrides of writing direction, ends of line and paragraph, fillers, annotations.
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff]"
    f"|(?<![{_JOINED}])[\u200c\u200d]|(?<![{_UNSPACED}])\u200b"
    # A selector says how the character before it is drawn; a second one says nothing, and a row of them can carry a message.
    "|(?<![^\x00-\x22\x24-\x29\x2b-\x2f\x3a-\x7f\ufe00-\ufe0f])[\ufe00-\ufe0f]"
    f"|(?<![\u1820-\u18aa])[\u180b-\u180f]|(?<![{_HAN}])[\U000e0100-\U000e01ef]"
)
LINE_ENDS = {ord("\n"): "\\n", ord("\t"): "\\t"}


def escape(character: str) -> str:
    """`\\x1b`, `\\u202e` or `\\U000e0041`."""
    return ascii(character)[1:-1]


def visible(text: str, name: Callable[[str], str] = escape) -> str:
    """The text with every character in it to be seen; line feeds and tabs stay. name: what is written for one that could not be."""
    return UNSEEN.sub(lambda found: found[0] if found["flag"] else name(found[0]), text)


def on_one_line(text: str) -> str:
    """The same with line feeds and tabs as escapes, too: for a value that must not look like several lines."""
    return visible(text).translate(LINE_ENDS)


def visible_json(value: Any) -> str:
    """Indented JSON of the value that shows as `visible` text does, and that any JSON parser reads as the value it was."""
    return visible(json.dumps(value, indent=1, ensure_ascii=False), lambda found: json.dumps(found)[1:-1])
