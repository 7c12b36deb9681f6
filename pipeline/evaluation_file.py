"""An evaluation's file: made from all that was heard, recognised again, published."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline import __version__
from pipeline.console import say
from pipeline.isolation import in_own_process
from pipeline.models import Models
from pipeline.settings import Settings
from pipeline.tables import markdown_scores, print_scores
from stages.errors import DataError, OutputExists
from stages.files import read_json, refuse_unwritable, write_json

if TYPE_CHECKING:
    from pipeline.hearing import Heard

ORDER = ("base", "teacher", "student", "control")


def not_asked(settings: Settings) -> dict[str, str]:
    """Parts of the evaluation that the settings leave out, each with its reason."""
    asked = settings.evaluation
    reasons = {
        "leak@k": "" if asked.samples else "evaluation.samples is 0",
        "membership": "" if asked.membership else "evaluation.membership is off",
        "perplexity": "" if asked.fluency else "evaluation.fluency is off",
        "multiple choice by likelihood": ""
        if asked.choices or asked.tasks
        else "no file under evaluation.choices and no task under evaluation.tasks",
    }
    for part, setting, made in (
        ("leak@k", "sampled_models", bool(asked.samples)),
        ("multiple choice by likelihood", "choice_models", bool(asked.choices or asked.tasks)),
    ):
        for role in ("base", "teacher", "student"):
            if made and role not in getattr(asked, setting):
                reasons[f"{part}, {role}"] = f"evaluation.{setting} leaves it out"
    return {part: reason for part, reason in reasons.items() if reason}


def summarise(heard: "Heard", settings: Settings) -> dict[str, Any]:
    """The evaluation as it is written: tidy scores, leak@k, choices, Performance Shift, everything that was said.

    Base stands before teacher and student in every list.
    """
    from stages.evaluation.choices import choice_scores
    from stages.evaluation.membership import membership_scores
    from stages.evaluation.sampling import leak_curve
    from stages.evaluation.scores import score_table, shift_of, with_paraphrases

    frames = (heard.answers, heard.samples, heard.choices, heard.membership)
    answers, samples, chosen, told = map(_in_order, frames)
    scores = score_table(with_paraphrases(answers, settings.evaluation.paraphrases))
    choices = choice_scores(chosen)
    return {
        "scores": scores.to_dicts(),
        "leaks": leak_curve(samples).to_dicts(),
        "choices": choices.to_dicts(),
        "membership": membership_scores(told).to_dicts() if told.height else None,
        "performance_shift": shift_of(scores, choices),
        "first_tokens": sorted(heard.first_tokens, key=lambda each: ORDER.index(each["model"])),
        "answers": answers.to_dicts(),
        "samples": samples.to_dicts(),
        "choice_answers": chosen.to_dicts(),
        "membership_answers": told.to_dicts(),
    }


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame.filter(pl.col("model") == role) for role in ORDER])


def holds_already(out: Path, inputs: dict[str, str], settings: Settings) -> bool:
    """Whether the file holds this evaluation; then it is shown again. Raises OutputExists if it holds anything else."""
    if not reusable(out, inputs):
        return False
    say(f"{out} holds this evaluation already.")
    print_scores(read_json(out), settings.evaluation.forget_files)
    return True


def run_record(
    settings: Settings, models: Models, inputs: dict[str, str], *, seconds: float, parts: dict[str, float]
) -> dict[str, Any]:
    """How the evaluation came about. parts: seconds by part."""
    return {
        "inputs": inputs,
        "settings": settings.model_dump(mode="json"),
        **models.names,
        "hardware": in_own_process(_hardware),
        "seconds": round(seconds, 1),
        "seconds_of_parts": parts,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duet_version": __version__,
    }


def publish(evaluation: dict[str, Any], out: Path, settings: Settings, models: Models) -> None:
    """Put the scores into the student's card, write the file, and show them.

    The file comes last: where it is, nothing is left to be done.
    """
    from stages.student.card import write_scores

    try:
        write_scores(models.student, markdown_scores(evaluation, settings.evaluation.forget_files))
    except OSError as error:  # the model may be another's; its scores are in the file all the same
        say(f"Warning: the scores are not in the card of {models.student}, which cannot be written ({error.strerror}).")
    write_json(out, evaluation)
    print_scores(evaluation, settings.evaluation.forget_files)
    say(f"Scores and all answers are in {out}.")


def reusable(out: Path, inputs: dict[str, str]) -> bool:
    """Whether the file holds this evaluation. Raises OutputExists if it holds another, or OutputUnwritable."""
    if not out.exists():
        refuse_unwritable(out)
        return False
    try:
        found = read_json(out)["run"]["inputs"]
    except (DataError, KeyError, TypeError):
        found = None
    if found == inputs:
        return True
    raise OutputExists(
        f"{out} already holds " + ("another evaluation." if found else "something that is not an evaluation."),
        "It was left as it is.",
        "Name another file with --out, or move that one away.",
    )


def _hardware() -> str:
    # In a process of its own, because asking loads torch.
    from stages.language_model.hardware import describe_hardware

    return describe_hardware()
