"""A document in, Markdown out, for a model card: the same words and tables, without pictures.

What a model or a file said is escaped: it makes no markup, no link, no image, and no cell of its own.
"""

import re
from collections.abc import Iterator, Sequence

from stages.evaluation.report.document import (
    Block,
    Cell,
    Code,
    Document,
    Examples,
    Figure,
    Missing,
    Prose,
    Section,
    Table,
)
from stages.evaluation.report.words import NO_VALUE, counted, visible
from stages.markdown_text import escaped

MOST_ROWS = 40
MOST_EXAMPLES = 8


def markdown(document: Document, *, generator: str, page: str) -> str:
    """The document as GitHub's Markdown. page: name of the HTML file, which has what is left out here."""
    return "\n".join(_lines(document, generator, page)) + "\n"


def _lines(document: Document, generator: str, page: str) -> Iterator[str]:
    yield f"<!-- {generator} -->"
    yield f"# {escaped(document.title)}"
    yield ""
    yield f"**{escaped(document.verdict.headline)}**"
    yield ""
    yield escaped(document.verdict.limit)
    yield ""
    yield from (f"- {escaped(name)}: {escaped(value)}" for name, value in document.facts)
    yield ""
    yield f"Figures, more rows and more answers: {escaped(page)}"
    yield ""
    yield "## Verdict"
    found = [(each.probe, each.outcome, each.text) for each in document.verdict.findings]
    yield from _table(("probe", "outcome", "found"), (False,) * 3, found)
    yield ""
    yield "By these rules:"
    yield ""
    yield from (f"{number}. {escaped(rule)}" for number, rule in enumerate(document.rules, start=1))
    for section in document.sections:
        yield from _section(section, page)


def _section(section: Section, page: str) -> Iterator[str]:
    yield ""
    yield f"## {escaped(section.title)}"
    for block in section.blocks:
        yield ""
        yield from _block(block, page)


def _block(block: Block, page: str) -> Iterator[str]:
    match block:
        case Missing():
            yield f"**{escaped(block.part)}** not measured: {escaped(block.reason)}"
        case Prose():
            yield escaped(block.text)
        case Code():
            yield f"**{escaped(block.title)}**"
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            yield from ("", fence, visible(block.text).rstrip("\n"), fence)
        case Figure():
            yield f"**{escaped(block.title)}** {escaped(block.explanation)}"
            yield ""
            yield from _whole_table(block.numbers, page)
        case Table():
            yield from _whole_table(block, page)
        case Examples():
            yield from _examples(block, page)


def _whole_table(table: Table, page: str) -> Iterator[str]:
    yield escaped(table.caption) + (f" ({escaped(table.note)})" if table.note else "")
    rows = [tuple(_cell(cell) for cell in row) for row in table.rows]
    yield from _table(table.columns, table.numeric, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        yield f"\n{counted(len(rows) - MOST_ROWS, 'further row')} in {escaped(page)}."


def _examples(block: Examples, page: str) -> Iterator[str]:
    # One question of each file and attack, so that few rows show many kinds.
    kinds = {(each.file, each.attack): each for each in reversed(block.examples)}
    shown = list(reversed(kinds.values()))[:MOST_EXAMPLES]
    shown_here = f"{counted(len(shown), 'question')} of those in {escaped(page)}, one of a file and attack."
    yield f"{shown_here} There: {escaped(block.explanation)}"
    roles = tuple(dict.fromkeys(said.role for each in shown for said in each.said))
    rows = []
    for each in shown:
        answers = {said.role: said.text or "(empty)" for said in each.said}
        rows.append(
            (
                f"{each.file}, {each.attack}",
                each.question,
                each.reference,
                *(answers.get(role, NO_VALUE) for role in roles),
            )
        )
    yield from _table(("asked", "question", "answer", *roles), (False,) * (3 + len(roles)), rows)


def _table(columns: tuple[str, ...], numeric: tuple[bool, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(map(escaped, columns))} |"
    yield f"|{'|'.join('---:' if each else '---' for each in numeric)}|"
    yield from (f"| {' | '.join(map(escaped, row))} |" for row in rows)


def _cell(cell: Cell) -> str:
    return f"{cell.text} {cell.beside}".rstrip()
