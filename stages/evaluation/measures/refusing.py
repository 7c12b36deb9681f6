"""Does an answer say that the model does not know, or will not say? An answer and sentences in, yes or no out.

The sentences stand in refusals.toml by language, and a user's own file adds to them.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from stages.errors import SettingsError
from stages.evaluation.measures.phrases import Heard, hear
from stages.records import FileKind, read_text

OURS = Path(__file__).with_name("refusals.toml")
NEEDED = "A TOML file was needed with lists of regular expressions by language:  en = ['\\bno comment\\b']"
NEXT = "Correct it, or leave evaluation.refusals out."
KIND = FileKind("file of refusals", NEEDED, "Name it in the settings:  --set evaluation.refusals=…", SettingsError)


# Languages whose every sentence has a letter beyond ASCII: most answers need no look at them.
BEYOND_ASCII = {"zh", "ja", "ko", "ru"}


@dataclass(frozen=True)
class Refusals:
    """Sentences of refusal: regular expressions with the language that they stand under, ours first."""

    patterns: tuple[tuple[str, str], ...]

    @cached_property
    def _by_language(self) -> dict[str, re.Pattern[str]]:
        # One expression for each language: a single one for all is slower.
        alternatives: dict[str, list[str]] = {}
        for language, pattern in self.patterns:
            alternatives.setdefault(language, []).append(f"(?:{pattern})")
        return {language: re.compile("|".join(each), re.IGNORECASE) for language, each in alternatives.items()}

    def stand_in(self, heard: Heard) -> bool:
        """Whether one of the sentences stands anywhere in the answer."""
        text = " ".join(heard.shown.replace("’", "'").split())
        skipped = BEYOND_ASCII if text.isascii() else ()
        return any(each.search(text) for language, each in self._by_language.items() if language not in skipped)


@cache
def load_refusals(path: Path | None = None) -> Refusals:
    """Our sentences, and those of a user's file if one is named.

    Raises SettingsError if the file cannot be read, is not of that form, or holds a regular expression that Python does
    not take or that an empty answer matches.
    """
    return Refusals((*_patterns(OURS), *(_patterns(path) if path else ())))


def declines(text: str) -> bool:
    """Whether an answer says that it does not know or will not say, by our own sentences."""
    return load_refusals().stand_in(hear(text))


def _patterns(path: Path) -> list[tuple[str, str]]:
    try:
        by_language = tomllib.loads(read_text(path, KIND))
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise SettingsError(f"{path} is not TOML: {error}.", NEEDED, NEXT) from error
    found: list[tuple[str, str]] = []
    for language, patterns in by_language.items():
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise SettingsError(f"{path} holds something else than a list of texts under {language}.", NEEDED, NEXT)
        for number, pattern in enumerate(patterns, 1):
            _check(pattern, f"{path}, {language}, number {number},")
            # A user's sentences are searched in every answer, in whatever language they are.
            found.append((language if path == OURS else f"{language} of {path.name}", pattern))
    return found


def _check(pattern: str, where: str) -> None:
    try:
        # As it will be used: a flag in its middle or a group named as another's would spoil them all.
        compiled = re.compile(f"(?:{pattern})", re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise SettingsError(
            f"{where} is no regular expression of Python: {pattern!r}: {error}.",
            NEEDED,
            "Correct it. 'Single quotes' leave a backslash as it is; (?:…) groups.",
        ) from error
    if compiled.groups:
        raise SettingsError(f"{where} captures a group: {pattern!r}.", "Sentences are only searched.", "Write (?:…).")
    if compiled.search(""):
        raise SettingsError(f"{where} matches an empty answer, and so every answer: {pattern!r}.", NEEDED, NEXT)
