"""`duet evaluate`: base, base + prefix (the teacher) and student answer the same questions."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from pipeline import __version__
from pipeline.console import progress, quieten_libraries, say
from pipeline.isolation import in_own_process
from pipeline.options import settings_options
from pipeline.settings import Settings, load_settings
from pipeline.tables import markdown_scores, print_scores
from stages.errors import OutputExists, SettingsError
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

if TYPE_CHECKING:
    from stages.evaluation.questions import Question


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


def question_files(settings: Settings) -> "dict[str, list[Question]]":
    """Every question file of the settings, read and checked."""
    from stages.evaluation.questions import load_questions

    if not settings.evaluation.questions:
        raise SettingsError(
            "The settings name no question file.",
            "Without questions nothing can be scored.",
            "Name them under [evaluation.questions], or:  --set evaluation.questions.forget=FILE",
        )
    return {name: load_questions(path) for name, path in settings.evaluation.questions.items()}


def answers_of(settings: Settings, model: Path, roles: tuple[str, ...]) -> pl.DataFrame:
    """All answers of one model folder in its roles: base and teacher share their weights, and so one engine."""
    quieten_libraries()
    from stages.evaluation.interview import interview, longest_prompt, question_count

    files = question_files(settings)
    asked = settings.evaluation
    prefix = load_prefix(settings.data.prefix)
    tokenizer = load_tokenizer(model)
    prompter = Prompter(tokenizer, settings.model.template)
    needed = longest_prompt(prompter, files, prefix if "teacher" in roles else None, asked.attacks) + asked.max_tokens
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
        # What the prefix holds back is the question for teacher and student; the base holds nothing back.
        attacks = () if role == "base" else asked.attacks
        total = question_count(files, attacks, asked.attacked_files)
        with progress(f"Asking the {role} ({engine.name})", total, "questions") as advance:
            frames.append(
                interview(
                    engine,
                    prompter,
                    files,
                    role=role,  # type: ignore[arg-type]
                    prefix=prefix if role == "teacher" else None,
                    attacks=attacks,
                    attacked_files=asked.attacked_files,
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
    files = {name: [question.model_dump() for question in asked] for name, asked in question_files(settings).items()}
    return sha256_json(
        {
            "weights": hash_weights(base),
            "tokenizer": hash_tokenizer(tokenizer),
            "template": Prompter(tokenizer, settings.model.template).template_sha256(),
            "prefix": load_prefix(settings.data.prefix).sha256(),
            "questions": files,
            "asked": settings.evaluation.model_dump(mode="json", exclude={"questions", "validation"}),
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
