"""Rows of an audit in, tables for people out. A place without a figure holds a dash, and the note says what it means."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from stages.evaluation.metrics import Interval
from stages.evaluation.report.document import Cell, Prose, Table
from stages.evaluation.report.parts import remarks
from stages.evaluation.report.plots import Mark
from stages.evaluation.report.rows import ROLES, Audit, Role
from stages.evaluation.report.words import MINUS, NO_VALUE, interval, points, signed

NONE = Cell(NO_VALUE)
Line: TypeAlias = Sequence[Cell | str]
FIGURE = re.compile(rf"[+{MINUS}]?\d[\d\u202f]*(\.\d+)?")


class OfModel(Protocol):
    """A row about one model."""

    @property
    def model(self) -> Role: ...


class WithInterval(Protocol):
    """A mean with its interval, whatever row it stands in."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Line],
    *,
    note: str = "",
    missing: str = "not measured",
    folded: bool = False,
) -> Table:
    """A column is one of figures if it holds nothing else. missing: what a dash means here, unless a row says it."""
    cells = tuple(tuple(each if isinstance(each, Cell) else Cell(each) for each in row) for row in rows)
    notes = [note] if note else []
    if missing and any(cell.text == NO_VALUE for row in cells for cell in row):
        notes.append(f"{NO_VALUE} {missing}.")
    numeric = tuple(place > 0 and _figures([row[place].text for row in cells]) for place in range(len(columns)))
    return Table(caption, tuple(columns), cells, numeric, " ".join(notes), folded)


def _figures(texts: Sequence[str]) -> bool:
    return all(text == NO_VALUE or FIGURE.fullmatch(text) for text in texts)


def score(row: WithInterval | None) -> Cell:
    """The mean with its interval beside it."""
    return NONE if row is None else Cell(points(row.mean), interval(row.low, row.high))


def change(found: Interval | None) -> Cell:
    """A difference with its sign and interval."""
    return NONE if found is None else Cell(signed(found.mean), interval(found.low, found.high, change=True))


def mark(row: WithInterval) -> Mark:
    """What a picture draws of a row."""
    return Mark(row.mean, row.low, row.high)


def by_role(rows: Mapping[Role, WithInterval], roles: Sequence[Role]) -> list[Cell]:
    """One score per model, in their order."""
    return [score(rows.get(role)) for role in roles]


def roles_of(rows: Sequence[OfModel]) -> tuple[Role, ...]:
    """The models that the rows are about, in the order of ROLES."""
    return tuple(role for role in ROLES if any(row.model == role for row in rows))


def remarks_of(audit: Audit, part: str) -> list[Prose]:
    """What of a part was not measured though the part was, one line each."""
    return [Prose(f"Not measured: {each}.", quiet=True) for each in remarks(audit, part)]
