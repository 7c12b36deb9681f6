"""`duet evaluate`: base, base + prefix (the teacher) and student answer the same questions."""

import time
from pathlib import Path

import click

from pipeline.baseline import baseline_heard
from pipeline.console import quieten_libraries, say
from pipeline.evaluation_file import holds_already, not_asked, publish, run_record, summarise
from pipeline.models import Models, notes_on_training, refuse_other_template
from pipeline.options import settings_options
from pipeline.settings import load_settings


@click.command()
@settings_options
@click.option("--model", "student", required=True, help="The unlearned model: a folder or a hub name.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for scores and answers.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An earlier evaluation whose answers of base and teacher are taken over; refused unless they were made alike.",
)
@click.option("--validation", is_flag=True, help="Ask the validation files, to tune on, instead of the held-out ones.")
def evaluate(
    config: str, overrides: tuple[str, ...], student: str, out: Path, baseline: Path | None, validation: bool
) -> None:
    """Score the student beside the base model and the prefixed teacher.

    \b
    Example:  duet evaluate --config capitals --model runs/demo/model --out runs/demo/evaluation.json
    """
    settings = load_settings(config, overrides)
    if validation:
        settings = settings.on_validation()
    quieten_libraries()
    models = Models.named(base=settings.model.path, student=student)
    refuse_other_template(settings, models.student)
    for note in notes_on_training(settings, models):
        say(note)
    inputs = models.inputs(settings)
    if holds_already(out, inputs, settings):
        return
    began = time.perf_counter()
    from pipeline.hearing import hear_all

    heard = hear_all(settings, models, baseline_heard(baseline, inputs))
    evaluation = {
        **summarise(heard, settings),
        "not_measured": not_asked(settings),
        "run": run_record(settings, models, inputs, seconds=time.perf_counter() - began, parts=heard.seconds),
    }
    publish(evaluation, out, settings, models)
