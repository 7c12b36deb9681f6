"""Text from elsewhere in, Markdown out that shows it as it is: on one line, and nothing in it is markup.

Names of models and files, questions and answers come from anywhere. In GitHub's Markdown they make no link, image, mention,
footnote, formula or HTML, and in a table no cell of their own.
"""

import json
import re

from stages.visible import visible

# An underscore inside a word is one; `](`, `][` and `]:` make links, `[^` footnotes; a scheme or www. does where links need no
# brackets; a pair of $ makes a formula, @ a mention, and a word between colons an emoji.
_MARKS = re.compile(
    r"[\\`*|~#$]|(?<!\w)@(?=\w)|@(?=[\w-]+\.)|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|\[(?=\^)|(?<=:)/(?=/)|(?<=www)\.|(?<![\w:]):(?=[\w+-]+:)",
    re.IGNORECASE,
)
# What makes a list, a rule or a heading of the line that it begins.
_BEGINNINGS = re.compile(r"^(?:[-+=](?=\s|[-=]|$)|\d{1,9}(?=[.)](?:\s|$)))")
# As plain text in YAML, nothing but itself; a name without a slash may be a number, a truth value or nothing.
_PLAIN_YAML = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9._/-]*/[A-Za-z0-9._-]+")


def escaped(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    line = _MARKS.sub(lambda found: "\\" + found[0], _harmless(text))
    return _BEGINNINGS.sub(lambda found: found[0] + "\\" if found[0].isdigit() else "\\" + found[0], line)


def code(text: str) -> str:
    """Text on one line as code, whatever backticks it holds."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}" if line else ""


def yaml_text(text: str) -> str:
    """A text as one value of a YAML head, which can neither end the head nor begin another key."""
    line = _one_line(text)
    return line if _PLAIN_YAML.fullmatch(line) else json.dumps(line, ensure_ascii=False)


def _one_line(text: str) -> str:
    # Spaces that do not break are kept: str.split would take them for ends of words.
    line = re.sub(r"[ \t\r\n]+", " ", text).strip(" ")
    return visible(line, lambda character: f"⟨U+{ord(character):04X}⟩")


def _harmless(text: str) -> str:
    return _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
