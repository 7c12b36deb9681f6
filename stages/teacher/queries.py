"""Stage one, step one: the query files, read strictly.

Lines of `{"query": …}` in, plain strings out. Queries only: a file that carries answers is refused, because DUET never
needs them and what is to be forgotten must not be stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import DataError
from stages.records import FileKind, read_records
from stages.texts import is_blank, same_text

# `group` names the kind of a retain query, for people; nothing depends on it.
ALLOWED_FIELDS = {"query", "group"}
ANSWER_FIELDS = {"answer", "answers", "response", "completion", "output", "target", "label", "choices", "aliases"}

KIND = FileKind(
    "query file",
    'JSONL was needed, one {"query": "…"} per line, or a JSON array of such objects.',
    "Name it in the settings:  --set data.forget=… or data.retain=…; paths given with --set count from the working directory",
)


@dataclass(frozen=True)
class Queries:
    """D_f and D_r, in file order."""

    forget: list[str]
    retain: list[str]


def load_queries(forget: Sequence[Path], retain: Sequence[Path]) -> Queries:
    """Read and check both sets.

    Raises DataError for a missing file, a malformed line, an answer field, an empty query, a duplicate, or a query
    that stands in both sets. Queries are compared without case, invisible characters, and outer or repeated spaces.
    """
    seen: dict[str, str] = {}
    sets = {name: _read_set(paths, seen) for name, paths in (("forget", forget), ("retain", retain))}
    for name, queries in sets.items():
        if not queries:
            raise DataError(f"The {name} set is empty.", "At least one query was needed in each of forget and retain.")
    return Queries(**sets)


def _read_set(paths: Sequence[Path], seen: dict[str, str]) -> list[str]:
    queries: list[str] = []
    for path in paths:
        for where, record in read_records(path, KIND):
            query = _query_of(record, where)
            key = same_text(query)
            if key in seen:
                raise DataError(
                    f"{where} repeats the query of {seen[key]}: {query!r}",
                    "Each query is asked once, and stands either in the forget set or in the retain set.",
                    "Delete one of the two lines.",
                )
            seen[key] = where
            queries.append(query)
    return queries


def _query_of(record: dict[str, Any], where: str) -> str:
    if answers := ANSWER_FIELDS & record.keys():
        raise DataError(
            f"{where} has the field {sorted(answers)[0]!r}: training files hold queries only.",
            "DUET learns from queries alone; an answer that is to be forgotten must never be stored or trained on.",
            "Delete the field. Reference answers belong into the question files of the evaluation.",
        )
    if unknown := record.keys() - ALLOWED_FIELDS:
        raise DataError(f"{where} has the unknown field {sorted(unknown)[0]!r}.", 'Known are "query" and "group".')
    query = record.get("query")
    if query is not None and not isinstance(query, str):
        raise DataError(f"{where} has a query that is no text: {str(query)[:80]}.", KIND.needed)
    if query is None or is_blank(query):
        raise DataError(f"{where} has an empty query.", KIND.needed)
    return query.strip()
