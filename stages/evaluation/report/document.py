"""What the report consists of, before it has a form: sections of blocks. HTML and Markdown are made from the same."""

from dataclasses import dataclass
from typing import TypeAlias

from stages.evaluation.report.rows import Role
from stages.evaluation.report.verdict import Verdict


@dataclass(frozen=True)
class Cell:
    """A figure or a word; beside, smaller, what belongs to it: an interval, a change."""

    text: str
    beside: str = ""


@dataclass(frozen=True)
class Table:
    """caption: what it shows and in which unit. The first column heads its row.

    numeric: which columns hold figures. folded: shown on demand in HTML. note: what its signs mean.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture. label: what it shows, in words, for those who do not see it. svg: harmless, made by `pictures`."""

    label: str
    title: str
    svg: str


@dataclass(frozen=True)
class Figure:
    """Panels of one kind under one title, and their numbers as a table. roles: models in it, for its key."""

    title: str
    explanation: str
    panels: tuple[Panel, ...]
    numbers: Table
    roles: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Missing:
    """A part that was not measured, and why. It stands where the part would."""

    part: str
    reason: str


@dataclass(frozen=True)
class Prose:
    """One paragraph. quiet: an aside, such as what a figure cannot show."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Code:
    """Lines to be typed, or a file to be kept."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Said:
    """What one model answered, and what is to be noticed about it: gives the answer, refuses, repeats."""

    role: Role
    text: str
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """One question with its answers side by side. asked: what was put to the models, if it was not the question alone."""

    file: str
    attack: str
    question: str
    asked: str
    reference: str
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Examples:
    """explanation: which questions are shown, out of how many."""

    explanation: str
    examples: tuple[Example, ...]


Block: TypeAlias = Table | Figure | Missing | Prose | Code | Examples


@dataclass(frozen=True)
class Section:
    """id: its anchor."""

    id: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """title, facts: what stands above everything. roles: the models, with what each is."""

    title: str
    facts: tuple[tuple[str, str], ...]
    verdict: Verdict
    rules: tuple[str, ...]
    sections: tuple[Section, ...]
