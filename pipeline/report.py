"""`duet report`: a run's audit or evaluation becomes a page for people, and Markdown for a model card."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.console import say, write
from stages.errors import CacheError, DataError, OutputExists, SettingsError
from stages.files import refuse_unwritable, write_atomically

if TYPE_CHECKING:
    from stages.evaluation.report.rows import Training
    from stages.logit_cache.manifest import Manifest

AUDIT, EVALUATION = "audit.json", "evaluation.json"
GENERATOR = f"duet report {__version__}"
# What every report of any version has near its beginning.
MARK = b"duet report "


@click.command()
@click.option(
    "--run",
    "runs",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of a run; further ones are points beside it in the picture of forgetting against retention.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="HTML file; default: RUN/report.html. The .md is put beside it.",
)
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=6,
    show_default=True,
    help="Questions per file and attack that are shown with their answers.",
)
def report(runs: tuple[Path, ...], out: Path | None, examples: int) -> None:
    """Write one HTML page that opens offline, and the same as Markdown.

    Reads RUN/audit.json, or else RUN/evaluation.json; RUN/run.json and RUN/metrics.jsonl where they are.

    \b
    Example:  duet report --run runs/demo
    """
    out = out or runs[0] / "report.html"
    card = out.with_suffix(".md")
    if card == out:
        raise SettingsError(
            f"--out {out} would be both the page and its Markdown.",
            "An HTML file was needed.",
            "For instance:  --out report.html",
        )
    for path in (out, card):
        refuse_foreign(path)
        refuse_unwritable(path)
    from stages.evaluation.report.build import build
    from stages.evaluation.report.markdown import markdown
    from stages.evaluation.report.page import html
    from stages.evaluation.report.reading import load_audit, load_metrics, load_training

    audit, *others = [load_audit(audit_of(run)) for run in runs]
    for run, other in zip(runs[1:], others, strict=True):
        refuse_other_questions(run, other.asked, audit.asked)
    training = load_training(runs[0] / "run.json")
    if training and training.model_sha256 != audit.run.inputs.get("student"):
        raise DataError(
            f"{audit_of(runs[0])} is about other weights than {runs[0] / 'run.json'}.",
            "The page would show one model's scores beside another's training, so nothing was written.",
            f"Evaluate this run's model:  duet evaluate --config … --model {runs[0] / 'model'} --out …",
        )
    document = build(
        audit,
        training,
        load_metrics(runs[0] / "metrics.jsonl"),
        capture_of(training),
        run=str(runs[0]),
        others=dict(zip(map(str, runs[1:]), others, strict=True)),
        examples=examples,
    )
    write_atomically(out, html(document, generator=GENERATOR).encode())
    write_atomically(card, markdown(document, generator=GENERATOR, page=out.name).encode())
    write(document.verdict.headline)
    say(f"{out} opens in any browser; {card} is the same for a model card.")


def audit_of(run: Path) -> Path:
    """The run's audit, or else its evaluation. Raises DataError if it has neither."""
    for name in (AUDIT, EVALUATION):
        if (run / name).is_file():
            return run / name
    raise DataError(
        f"{run} holds neither {AUDIT} nor {EVALUATION}.",
        "A report is made of one of them, so nothing was written.",
        f"Make one:  make audit RUN={run}  or  make evaluate RUN={run}",
    )


def capture_of(training: "Training | None") -> "Manifest | str":
    """The manifest of the cache that was trained on, or in words why it is not known: it may be on another machine."""
    from stages.logit_cache.manifest import MANIFEST, read_manifest

    if training is None or training.cache is None:
        return "there is no run.json that names the cache"
    if not (Path(training.cache) / MANIFEST).is_file():
        return f"{training.cache} is not here"
    try:
        manifest = read_manifest(Path(training.cache))
    except CacheError as error:
        return error.found
    return manifest if manifest.cache_id == training.cache_id else f"{training.cache} holds another cache by now"


def refuse_foreign(path: Path) -> None:
    """Raise OutputExists if there is a file that is no report."""
    if path.is_file() and MARK not in path.read_bytes()[:2000]:
        raise OutputExists(
            f"{path} holds something that is not a report.", "It was left as it is.", "Name another file with --out."
        )


def refuse_other_questions(run: Path, asked: frozenset[tuple[str, str]], expected: frozenset[tuple[str, str]]) -> None:
    """Raise DataError unless both were asked the same questions: others, and the points cannot stand in one picture."""
    if different := asked ^ expected:
        file, question = min(different)
        raise DataError(
            f"{run} was asked other questions on {file}: only one of the two has {question!r}.",
            "Its scores cannot stand beside the first run's, so nothing was written.",
            "Report on runs that were evaluated on the same files.",
        )
