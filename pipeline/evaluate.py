"""`duet evaluate`: base, base + prefix (the teacher) and student answer the same questions."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import polars as pl
from pydantic import TypeAdapter

from pipeline import __version__
from pipeline.console import quieten_libraries, say
from pipeline.isolation import in_own_process
from pipeline.options import settings_options
from pipeline.questions import choice_files, everything_asked, left_out, left_out_tasks, task_digests
from pipeline.settings import Settings, load_settings
from pipeline.tables import markdown_scores, print_scores
from stages.errors import OutputExists, SettingsError
from stages.evaluation.attacks import Ask, AttackName
from stages.files import write_json
from stages.language_model.folder import hash_tokenizer, hash_weights, load_tokenizer, resolve_model
from stages.language_model.prompts import Prompter, load_prefix
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from pipeline.hearing import Heard

# Settings that name files: what stands in them counts, not where they are.
FILES = {"questions", "validation", "revealing", "translated", "choices", "task_folder"}
ORDER = ("base", "teacher", "student")
AUDIT_SAMPLES = 32


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
@click.option("--audit", is_flag=True, help="Every attack that there are files for, leak@k, fluency.")
def evaluate(
    config: str,
    overrides: tuple[str, ...],
    student: str,
    out: Path,
    baseline: Path | None,
    validation: bool,
    audit: bool,
) -> None:
    """Score the student beside the base model and the prefixed teacher.

    \b
    Example:  duet evaluate --config capitals --model runs/demo/model --out runs/demo/evaluation.json
    """
    settings = load_settings(config, overrides)
    if validation:
        settings = settings.on_validation()
    not_measured: dict[str, str] = {}
    if audit:
        settings, not_measured = audited(settings)
    quieten_libraries()
    base_folder, student_folder = resolve_model(settings.model.path), resolve_model(student)
    inputs = {"base": base_inputs(settings, base_folder), "student": hash_weights(student_folder)}
    if reusable(out, inputs):
        say(f"{out} holds this evaluation already.")
        print_scores(json.loads(out.read_bytes()), settings.evaluation.forget_files)
        return
    began = time.perf_counter()
    from pipeline.hearing import hear, nothing_heard

    others = baseline_heard(baseline, inputs["base"]) if baseline else nothing_heard()
    # The student first, so that the base model, once loaded, can score everyone's fluency.
    heard = in_own_process(hear, settings, student_folder, ("student",), others)
    if not baseline or settings.evaluation.fluency:
        heard = in_own_process(hear, settings, base_folder, () if baseline else ("base", "teacher"), heard)
    evaluation = summarise(heard)
    evaluation["not_measured"] = not_measured | not_asked(settings)
    evaluation["run"] = {
        "inputs": inputs,
        "settings": settings.model_dump(mode="json"),
        "base": settings.model.path,
        "student": student,
        "hardware": in_own_process(_hardware),
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_of_parts": heard.seconds,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duet_version": __version__,
    }
    write_json(out, evaluation)
    from stages.student.card import write_scores

    write_scores(student_folder, markdown_scores(evaluation, settings.evaluation.forget_files))
    print_scores(evaluation, settings.evaluation.forget_files)
    say(f"Scores and all answers are in {out}.")


def audited(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with every attack that they have the files for, leak@k and fluency; and why what is missing is.

    A task whose questions cannot be had is left out, too.
    """
    missing = left_out(settings)
    unreached = in_own_process(left_out_tasks, settings) if settings.evaluation.tasks else {}
    tasks = tuple(name for name in settings.evaluation.tasks if name not in unreached)
    attacks = tuple(attack for attack in get_args(AttackName) if attack not in missing)
    samples = settings.evaluation.samples or AUDIT_SAMPLES
    reasons = {f"attack {name}": reason for name, reason in missing.items()}
    reasons |= {f"multiple choice {name}": reason for name, reason in unreached.items()}
    return settings.with_evaluation(attacks=attacks, samples=samples, fluency=True, tasks=tasks), reasons


def not_asked(settings: Settings) -> dict[str, str]:
    """Parts of the evaluation that the settings leave out, each with its reason."""
    asked = settings.evaluation
    reasons = {
        "leak@k": "" if asked.samples else "evaluation.samples is 0",
        "perplexity": "" if asked.fluency else "evaluation.fluency is off",
        "multiple choice by likelihood": ""
        if asked.choices or asked.tasks
        else "no file under evaluation.choices and no task under evaluation.tasks",
    }
    return {part: reason for part, reason in reasons.items() if reason}


def summarise(heard: "Heard") -> dict[str, Any]:
    """The evaluation as it is written: tidy scores, leak@k, choices, Performance Shift, everything that was said.

    Base stands before teacher and student in every list.
    """
    from stages.evaluation.choices import choice_scores
    from stages.evaluation.sampling import leak_curve
    from stages.evaluation.scores import score_table, shift_of

    answers, samples, chosen = (_in_order(each) for each in (heard.answers, heard.samples, heard.choices))
    scores, choices = score_table(answers), choice_scores(chosen)
    return {
        "scores": scores.to_dicts(),
        "leaks": leak_curve(samples).to_dicts(),
        "choices": choices.to_dicts(),
        "performance_shift": shift_of(scores, choices),
        "first_tokens": sorted(heard.first_tokens, key=lambda each: ORDER.index(each["model"])),
        "answers": answers.to_dicts(),
        "samples": samples.to_dicts(),
        "choice_answers": chosen.to_dicts(),
    }


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame.filter(pl.col("model") == role) for role in ORDER])


def base_inputs(settings: Settings, base: Path) -> str:
    """Hash of all that determines the answers of base and teacher."""
    tokenizer = load_tokenizer(base)
    items = TypeAdapter(list[Ask]).dump_python([item.ask for item in everything_asked(settings)], mode="json")
    return sha256_json(
        {
            "weights": hash_weights(base),
            "tokenizer": hash_tokenizer(tokenizer),
            "template": Prompter(tokenizer, settings.model.template).template_sha256(),
            "prefix": load_prefix(settings.data.prefix).sha256(),
            "items": items,
            "choices": {
                name: [each.model_dump(mode="json") for each in asked] for name, asked in choice_files(settings).items()
            },
            "tasks": in_own_process(task_digests, settings) if settings.evaluation.tasks else {},
            "asked": settings.evaluation.model_dump(mode="json", exclude=FILES),
            "dtype": settings.model.dtype,
        }
    )


def reusable(out: Path, inputs: dict[str, str]) -> bool:
    """Whether the file holds this evaluation. Raises OutputExists if it holds another, or something else."""
    if not out.exists():
        return False
    try:
        found = json.loads(out.read_bytes())["run"]["inputs"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found == inputs:
        return True
    raise OutputExists(
        f"{out} already holds " + ("another evaluation." if found else "something that is not an evaluation."),
        "It was left as it is.",
        "Name another file with --out, or move that one away.",
    )


def baseline_heard(path: Path, inputs: str) -> "Heard":
    """What base and teacher said in an earlier evaluation. Raises SettingsError unless it was made alike."""
    from pipeline.hearing import Heard, nothing_heard

    found = json.loads(path.read_bytes())
    if found.get("run", {}).get("inputs", {}).get("base") != inputs:
        raise SettingsError(
            f"{path} was made with another base model, prefix, question file or setting.",
            "Its answers cannot stand beside this student's, so nothing was asked.",
            "Leave --baseline out.",
        )
    empty = nothing_heard()

    def frame(name: str, like: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame(found[name], schema=like.schema).filter(pl.col("model") != "student")

    return Heard(
        frame("answers", empty.answers),
        frame("samples", empty.samples),
        frame("choice_answers", empty.choices),
        [each for each in found["first_tokens"] if each["model"] != "student"],
    )


def _hardware() -> str:
    # In a process of its own, because asking loads torch.
    from stages.language_model.hardware import describe_hardware

    return describe_hardware()
