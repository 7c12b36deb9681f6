"""What the measures know of each language, read from languages.toml: one set of phrases, whatever language is spoken.

An answer says in no field which language it is in, so the phrases of all languages are looked for in each.
"""

import tomllib
from pathlib import Path

from stages.texts import words

_TABLES = tomllib.loads(Path(__file__).with_name("languages.toml").read_text(encoding="utf-8"))

Phrase = tuple[str, ...]


def _phrases(kind: str, *languages: str) -> frozenset[Phrase]:
    chosen = languages or tuple(_TABLES)
    return frozenset(tuple(words(phrase)) for language in chosen for phrase in _TABLES[language][kind])


ENGLISH_ARTICLES = frozenset(word for (word,) in _phrases("articles", "en"))
ARTICLES = frozenset(word for (word,) in _phrases("articles"))
DENIED_BY = _phrases("denied_by")
DENIED_AFTER = _phrases("denied_after")
TURNS = _phrases("turns")
ABBREVIATIONS = frozenset(word for (word,) in _phrases("abbreviations"))
