"""`duet audit`: the evaluation with every attack, everyday requests, and what lies deeper: quantisation, layers,
membership, relearning.

Each part is written down as soon as it is measured, so that a killed audit goes on where it was; the file appears last.
"""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from pipeline.audit_parts import PARTS, SCRATCH, Context
from pipeline.baseline import baseline_heard, baseline_rows
from pipeline.console import quieten_libraries, say
from pipeline.evaluation_file import holds_already, not_asked, publish, run_record, summarise
from pipeline.instructions import instructions_inputs
from pipeline.isolation import in_own_process
from pipeline.models import Models, notes_on_training, refuse_other_template
from pipeline.options import settings_options
from pipeline.questions import left_out, left_out_tasks
from pipeline.settings import Settings, load_settings
from stages.errors import DataError, DuetError
from stages.evaluation.attacks import AttackName
from stages.evaluation.questions import load_questions
from stages.files import read_json, write_json
from stages.logit_cache.fingerprint import sha256_json

SAMPLES = 32
PART_NEEDED = "A part of an audit was needed."
DELETE_PART = "Delete it: that part is measured again."


@click.command()
@settings_options
@click.option("--model", "student", required=True, help="The unlearned model: a folder or a hub name.")
@click.option("--control", help="A model that never knew what is forgotten, to be read beside the student.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for scores and answers.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An earlier audit that gives what it found of base, teacher and the same control; refused unless made alike.",
)
@click.option("--without", multiple=True, type=click.Choice(list(PARTS)), help="Leave a part out; may be repeated.")
def audit(
    config: str,
    overrides: tuple[str, ...],
    student: str,
    control: str | None,
    out: Path,
    baseline: Path | None,
    without: tuple[str, ...],
) -> None:
    """Is it really forgotten? Everything that the settings have the files for, and each thing left out with its reason.

    \b
    Examples:
      duet audit --config capitals --model runs/demo/model --out runs/demo/audit.json --without relearning
      duet audit --config fictitious --model … --control runs/fictitious/never-knew/model --out …
    """
    settings, not_measured = audited(load_settings(config, overrides))
    quieten_libraries()
    models = Models.named(base=settings.model.path, student=student, control=control)
    refuse_other_template(settings, models.student)
    for note in notes_on_training(settings, models):
        say(note)
    inputs = models.inputs(settings) | {
        "instructions": instructions_inputs(settings),
        "relearning": relearning_inputs(settings),
    }
    desk = Desk(out.with_suffix(".parts"), inputs)
    if holds_already(out, inputs | {"without": " ".join(sorted(without))}, settings):
        desk.clear()
        return
    began = time.perf_counter()
    desk.sweep_up()
    found = desk.measured("questions", partial(_questions, settings, models, baseline, inputs))
    context = Context(settings, models, found, baseline_rows(baseline, inputs), desk.folder)
    for name, part in PARTS.items():
        if name in without:
            found |= dict.fromkeys(part.keys)
            not_measured |= dict.fromkeys(part.keys, f"left out by --without {name}")
            continue
        try:
            measured = desk.measured(name, partial(part.measure, context))
        except DuetError as error:
            # One part that cannot be measured must not cost the others; its reason stands in the file and on the screen.
            say(f"Not measured: {name}. {error}")
            found |= dict.fromkeys(part.keys)
            not_measured |= dict.fromkeys(part.keys, error.found)
            continue
        not_measured |= measured.pop("not_measured", {})
        found |= measured
    if control is None:
        not_measured["control"] = "no --control was given, so what comes back cannot be told from what is learnt"
    spent = desk.seconds | found.pop("seconds", {})
    total = time.perf_counter() - began + desk.seconds_before
    evaluation = {
        **found,
        "not_measured": not_measured | not_asked(settings),
        "run": run_record(
            settings, models, inputs | {"without": " ".join(sorted(without))}, seconds=total, parts=spent
        ),
    }
    publish(evaluation, out, settings, models)
    desk.clear()


class Desk:
    """What has been measured so far, one file per part, for an audit of these inputs and no other."""

    def __init__(self, folder: Path, inputs: dict[str, str]) -> None:
        self.seconds: dict[str, float] = {}
        self.seconds_before = 0.0
        self.folder, self._inputs = folder, inputs

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The part as it was measured before, or measured now and written down. Remembers the seconds it took."""
        path = self.folder / f"{name}.json"
        if path.is_file():
            record = read_json(path, PART_NEEDED, DELETE_PART)
            found, seconds = record.get("found"), record.get("seconds")
            if record.get("inputs") == self._inputs:
                if not isinstance(found, dict) or not isinstance(seconds, int | float):
                    raise DataError(f"{path} is no part of an audit.", PART_NEEDED, DELETE_PART)
                say(f"{name}: measured before, taken from {path}.")
                self.seconds[name] = seconds
                self.seconds_before += seconds
                return found
        began = time.perf_counter()
        measured = measure()
        self.seconds[name] = round(time.perf_counter() - began, 1)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"inputs": self._inputs, "seconds": self.seconds[name], "found": measured})
        return dict(measured)

    def sweep_up(self) -> None:
        """Remove the temporary folders of an audit that was killed."""
        for left in self.folder.glob(SCRATCH + "*"):
            shutil.rmtree(left, ignore_errors=True)

    def clear(self) -> None:
        """Remove what the finished file now holds."""
        if (self.folder / "questions.json").is_file():  # the first part of any audit: the folder is one of ours
            shutil.rmtree(self.folder, ignore_errors=True)


def audited(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with every attack that they have the files for, leak@k and fluency; and why what is missing is.

    A task whose questions cannot be had is left out, too.
    """
    missing = left_out(settings)
    unreached = in_own_process(left_out_tasks, settings) if settings.evaluation.tasks else {}
    tasks = tuple(name for name in settings.evaluation.tasks if name not in unreached)
    attacks = tuple(attack for attack in get_args(AttackName) if attack not in missing)
    samples = settings.evaluation.samples or SAMPLES
    reasons = {f"attack {name}": reason for name, reason in missing.items()}
    reasons |= {f"multiple choice {name}": reason for name, reason in unreached.items()}
    return settings.with_evaluation(
        attacks=attacks, samples=samples, fluency=True, membership=True, tasks=tasks
    ), reasons


def relearning_inputs(settings: Settings) -> str:
    """Hash of all that determines what relearning does, beside the models: its settings, and what the unrelated file holds."""
    own = settings.relearning
    unrelated = load_questions(own.unrelated) if own.unrelated else []
    known = {key: value for key, value in own.determining().items() if key != "unrelated"}
    return sha256_json({"settings": known, "unrelated": [each.model_dump(mode="json") for each in unrelated]})


def _questions(settings: Settings, models: Models, baseline: Path | None, inputs: dict[str, str]) -> dict[str, Any]:
    from pipeline.hearing import hear_all

    heard = hear_all(settings, models, baseline_heard(baseline, inputs))
    return {**summarise(heard, settings), "seconds": heard.seconds}
