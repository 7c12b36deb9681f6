"""`duet compare`: several evaluations side by side, as the Markdown tables that the docs show."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.console import write
from pipeline.seeds import made_with, seed_tables
from stages.errors import DataError
from stages.files import read_json, refuse_unwritable, write_atomically
from stages.markdown_text import escaped

NEEDED = "A file that `duet evaluate` wrote was needed."
MAKE_ONE = "Make one:  duet evaluate --config … --model … --out …"


@click.command()
@click.argument("evaluations", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--mean", "as_seeds", is_flag=True, help="The runs differ in their seed only: show means and each run's verdict."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the Markdown to this file, too.")
def compare(evaluations: tuple[Path, ...], as_seeds: bool, out: Path | None) -> None:
    """Compare EVALUATIONS: one row per run with the settings that differ, or the mean over seeds.

    \b
    Examples:
      duet compare runs/tuning/*/evaluation.json --out docs/tuning.md
      duet compare --mean runs/seed-*/evaluation.json
    """
    found = {path: load_evaluation(path) for path in evaluations}
    refuse_other_questions(found)
    if as_seeds:
        refuse_other_settings(found)
    text = "\n".join((seed_tables if as_seeds else run_table)(list(found.values()))) + "\n"
    if out:
        refuse_unwritable(out)
        write_atomically(out, text.encode())
    write(text)


def refuse_other_questions(evaluations: Mapping[Path, dict[str, Any]]) -> None:
    """Raise DataError unless all were asked the same files and attacks: other questions, other figures."""
    first = next(iter(evaluations))
    for path, evaluation in evaluations.items():
        if differing := set(_asked(evaluation)) ^ set(_asked(evaluations[first])):
            file, attack = min(differing, key=str)
            raise DataError(
                f"{path} and {first} were asked different questions: only one has {file}{f', {attack} prompt' if attack else ''}.",
                "Their scores cannot stand in one table.",
                "Compare evaluations with the same [evaluation.questions] and attacks.",
            )


def refuse_other_settings(evaluations: Mapping[Path, dict[str, Any]]) -> None:
    """Raise DataError unless each run has a seed of its own and nothing else: a mean over anything else says nothing."""
    settings = [_flat(evaluation["run"]["settings"]) for evaluation in evaluations.values()]
    seeds = [each["student.seed"] for each in settings]
    if len(set(seeds)) < len(seeds):
        fault = f"The seeds are {', '.join(map(str, seeds))}: one of them counts twice."
    elif others := [key for key in _differing(settings) if key != "student.seed"]:
        fault = f"The runs differ in {', '.join(others)}."
    elif len({evaluation["run"]["inputs"]["base"] for evaluation in evaluations.values()}) > 1:
        fault = "The runs differ in the contents of the base model, the prefix or a question file."
    else:
        return
    raise DataError(
        fault,
        "A mean was asked for over runs that differ in student.seed only.",
        "Leave --mean out to see them side by side.",
    )


def run_table(evaluations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Base and teacher once, then a row per run: the settings that differ, ROUGE-L recall per file, worst degenerate."""
    settings = [_flat(evaluation["run"]["settings"]) for evaluation in evaluations]
    keys = _differing(settings)
    columns = _asked(evaluations[0])
    forget = evaluations[0]["run"]["settings"]["evaluation"]["forget_files"]
    titles = [f"{file}{', ' + attack if attack else ''} {'↓' if file in forget else '↑'}" for file, attack in columns]
    heads = ["run", *titles, "refusals on " + forget[0], "refusals elsewhere", "degenerate, worst file"]
    yield f"| {' | '.join(map(escaped, heads))} |"
    yield "|---|" + "---:|" * (len(titles) + 3)

    def row(name: str, scores: list[dict[str, Any]], model: str) -> str:
        means = {(s["file"], s["attack"], s["metric"]): s["mean"] for s in scores if s["model"] == model}
        cells = [_figure(means.get((file, attack, "rouge_l_recall"))) for file, attack in columns]
        kept = [means[file, None, "refusal_rate"] for file, attack in columns if not attack and file not in forget]
        worst = max(means[file, None, "degenerate_rate"] for file, attack in columns if not attack)
        cells += [_figure(means[forget[0], None, "refusal_rate"]), _figure(max(kept, default=None)), _figure(worst)]
        return f"| {escaped(name)} | {' | '.join(cells)} |"

    yield row("base", evaluations[0]["scores"], "base")
    shown = set()
    for evaluation, own in zip(evaluations, settings, strict=True):
        # Another prefix makes another teacher.
        teacher = row("base + prefix (teacher)", evaluation["scores"], "teacher")
        if teacher not in shown:
            shown.add(teacher)
            yield teacher
        name = ", ".join(f"{key.removeprefix('student.').removeprefix('teacher.')} {own.get(key)}" for key in keys)
        yield row(name or "DUET", evaluation["scores"], "student")
    yield ""
    yield made_with(evaluations)


def load_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation's or audit's content. Raises DataError if the file is neither."""
    found = read_json(path, NEEDED, MAKE_ONE)
    try:
        run, settings = found["run"], found["run"]["settings"]
        needed = (
            run["base"],
            run["inputs"]["base"],
            run["hardware"],
            run["finished_at"],
            settings["evaluation"]["forget_files"],
            _asked(found),
        )
        complete = all(needed) and "seed" in settings["student"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_evaluation(path) from error
    if not complete:
        raise _no_evaluation(path)
    return found


def _no_evaluation(path: Path) -> DataError:
    return DataError(f"{path} is not an evaluation.", NEEDED, MAKE_ONE)


def _asked(evaluation: dict[str, Any]) -> list[tuple[str, str | None]]:
    """File and attack of every score, in order."""
    return list(dict.fromkeys((score["file"], score["attack"]) for score in evaluation["scores"]))


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Settings that do not have one value in all runs."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    # Who must sign a cache changes no figure.
    kept = {name: section for name, section in settings.items() if name != "trust"}
    return {f"{name}.{key}": value for name, section in kept.items() for key, value in section.items()}


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
