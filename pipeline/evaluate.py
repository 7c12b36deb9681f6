"""`duet evaluate`: base, base + prefix (the teacher) and student answer the same questions."""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import polars as pl

from pipeline import __version__
from pipeline.console import progress, quieten_libraries, say
from pipeline.isolation import in_own_process
from pipeline.options import settings_options
from pipeline.questions import everything_asked, left_out
from pipeline.settings import Settings, load_settings
from pipeline.tables import markdown_scores, print_scores
from stages.errors import OutputExists, SettingsError
from stages.evaluation.attacks import AttackName
from stages.files import write_json
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import (
    context_length,
    end_of_turn_ids,
    hash_tokenizer,
    hash_weights,
    load_tokenizer,
    resolve_model,
)
from stages.language_model.prompts import Prompter, load_prefix
from stages.logit_cache.fingerprint import sha256_json

# Settings that name files: what stands in them counts, not where they are.
FILES = {"questions", "validation", "revealing", "translated"}


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
@click.option("--audit", is_flag=True, help="Make every attack that the settings have the files for.")
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
    if baseline:
        answers = [baseline_answers(baseline, inputs["base"])]
    else:
        answers = [in_own_process(answers_of, settings, base_folder, ("base", "teacher"))]
    answers.append(in_own_process(answers_of, settings, student_folder, ("student",)))
    evaluation = summarise(pl.concat(answers))
    evaluation["not_measured"] = not_measured
    evaluation["run"] = {
        "inputs": inputs,
        "settings": settings.model_dump(mode="json"),
        "base": settings.model.path,
        "student": student,
        "hardware": in_own_process(_hardware),
        "seconds": round(time.perf_counter() - began, 1),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duet_version": __version__,
    }
    write_json(out, evaluation)
    from stages.student.card import write_scores

    write_scores(student_folder, markdown_scores(evaluation, settings.evaluation.forget_files))
    print_scores(evaluation, settings.evaluation.forget_files)
    say(f"Scores and all answers are in {out}.")


def audited(settings: Settings) -> tuple[Settings, dict[str, str]]:
    """The settings with every attack that they have the files for, and why each of the others is left out."""
    missing = left_out(settings)
    attacks = tuple(attack for attack in get_args(AttackName) if attack not in missing)
    return settings.with_evaluation(attacks=attacks), {f"attack {name}": reason for name, reason in missing.items()}


def answers_of(settings: Settings, model: Path, roles: tuple[str, ...]) -> pl.DataFrame:
    """All answers of one model folder in its roles: base and teacher share their weights, and so one engine."""
    quieten_libraries()
    from stages.evaluation.interview import interview, longest_prompt

    items = everything_asked(settings)
    asked = settings.evaluation
    prefix = load_prefix(settings.data.prefix)
    tokenizer = load_tokenizer(model)
    prompter = Prompter(tokenizer, settings.model.template)
    needed = longest_prompt(prompter, items, prefix if "teacher" in roles else None) + asked.max_tokens
    if needed > context_length(model):
        raise SettingsError(
            f"The longest prompt and answer take {needed} tokens, {model} holds {context_length(model)}.",
            "Nothing is truncated, so nothing was asked.",
            "Shorten the prefix or set evaluation.max_tokens lower.",
        )
    engine = start_engine(
        settings.model.engine,
        EngineOptions(
            model=model,
            dtype=settings.model.dtype,
            context_length=needed,
            stop_ids=tuple(end_of_turn_ids(model, tokenizer)),
            batch_rows=settings.model.batch_rows,
            gpus=settings.model.gpus,
        ),
    )
    frames = []
    for role in roles:
        with progress(f"Asking the {role} ({engine.name})", len(items), "questions") as advance:
            frames.append(
                interview(
                    engine,
                    prompter,
                    items,
                    role=role,  # type: ignore[arg-type]
                    prefix=prefix if role == "teacher" else None,
                    max_tokens=asked.max_tokens,
                    advance=advance,
                )
            )
    return pl.concat(frames)


def summarise(answers: pl.DataFrame) -> dict[str, Any]:
    """The evaluation as it is written: tidy scores, Performance Shift, every answer."""
    from stages.evaluation.scores import score_table, shift_of

    scores = score_table(answers)
    return {"scores": scores.to_dicts(), "performance_shift": shift_of(scores), "answers": answers.to_dicts()}


def base_inputs(settings: Settings, base: Path) -> str:
    """Hash of all that determines the answers of base and teacher."""
    tokenizer = load_tokenizer(base)
    items = [[item.file, item.number, item.attack, asdict(item.ask)] for item in everything_asked(settings)]
    return sha256_json(
        {
            "weights": hash_weights(base),
            "tokenizer": hash_tokenizer(tokenizer),
            "template": Prompter(tokenizer, settings.model.template).template_sha256(),
            "prefix": load_prefix(settings.data.prefix).sha256(),
            "items": items,
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


def baseline_answers(path: Path, inputs: str) -> pl.DataFrame:
    """Answers of base and teacher from an earlier evaluation. Raises SettingsError unless it was made alike."""
    from stages.evaluation.interview import ANSWER_SCHEMA

    found = json.loads(path.read_bytes())
    if found.get("run", {}).get("inputs", {}).get("base") != inputs:
        raise SettingsError(
            f"{path} was made with another base model, prefix, question file or setting.",
            "Its answers cannot stand beside this student's, so nothing was asked.",
            "Leave --baseline out.",
        )
    return pl.DataFrame(found["answers"], schema=ANSWER_SCHEMA).filter(pl.col("model") != "student")


def _hardware() -> str:
    # In a process of its own, because asking loads torch.
    from stages.language_model.hardware import describe_hardware

    return describe_hardware()
