"""`duet results`: the audits of several topics, each over its seeds, as the one page that strangers read."""

from pathlib import Path

import click

from pipeline.compare import load_evaluation, refuse_other_questions, refuse_other_settings
from pipeline.console import write
from pipeline.seeds import seed_tables
from stages.errors import DataError, OutputExists
from stages.files import refuse_unwritable, write_atomically

HEAD = """# Results

Written by `duet results` (`make results`) from audits of trained students; nothing was edited by hand. Every table names n.
With one seed a 95 % bootstrap interval over questions stands in brackets. What an audit finds is no proof that nothing else is
left.
"""
HEADING = "\n## "


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="NAME=FOLDER…")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Markdown file.")
def results(topics: tuple[str, ...], out: Path) -> None:
    """Put the audits FOLDER/seed-*/audit.json of each topic NAME into one page of Markdown.

    Topics that the page has and that are not named stay as they are: another machine may have measured them.

    \b
    Example:  duet results capitals=runs/results/capitals fictitious=runs/results/fictitious --out RESULTS.md
    """
    sections = sections_of(out)
    refuse_unwritable(out)
    for topic in topics:
        name, separator, folder = topic.partition("=")
        files = sorted(Path(folder).glob("seed-*/audit.json")) if separator else []
        if not files:
            raise DataError(
                f"{topic} names no audit." if separator else f"{topic} is not NAME=FOLDER.",
                f"Files such as {folder or 'FOLDER'}/seed-0/audit.json were needed, so nothing was written.",
                "Make them:  make results",
            )
        found = {path: load_evaluation(path) for path in files}
        refuse_other_questions(found)
        refuse_other_settings(found)
        sections[name] = "\n".join(["", *seed_tables(list(found.values())), ""])
    page = HEAD + "".join(f"{HEADING}{name}\n{section}" for name, section in sections.items())
    write_atomically(out, page.encode())
    write(f"{out} is written.")


def sections_of(page: Path) -> dict[str, str]:
    """By topic, in their order, the text under its heading; empty if there is no page yet.

    Raises OutputExists if the file is not such a page.
    """
    if not page.exists():
        return {}
    head, *parts = page.read_text(encoding="utf-8", errors="replace").split(HEADING)
    if not head.startswith(HEAD.splitlines()[0] + "\n"):
        raise OutputExists(
            f"{page} is not a page that `duet results` wrote.", "It was left as it is.", "Name another file with --out."
        )
    named = (part.partition("\n") for part in parts)
    return {name: section.rstrip("\n") + "\n" for name, _, section in named}
