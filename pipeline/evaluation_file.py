"""An evaluation's file: made from all that was heard, recognised again, published, and taken over as a baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, TypeAdapter

from pipeline import __version__
from pipeline.console import say
from pipeline.isolation import in_own_process
from pipeline.questions import choice_files, everything_asked, task_digests, unseen_files
from pipeline.settings import Settings
from pipeline.tables import markdown_scores, print_scores
from stages.errors import OutputExists, SettingsError
from stages.evaluation.attacks import Ask
from stages.files import write_json
from stages.language_model.folder import hash_tokenizer, hash_weights, load_tokenizer, resolve_model
from stages.language_model.prompts import Prompter, load_prefix
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from pipeline.hearing import Heard
    from stages.evaluation.interview import ModelRole

# Settings that name files: what stands in them counts, not where they are.
FILES = {"questions", "validation", "revealing", "translated", "choices", "unseen", "task_folder"}
TAKEN_OVER = ("base", "teacher")
ORDER = ("base", "teacher", "student", "control")


@dataclass(frozen=True)
class Models:
    """The models of one evaluation by their folders, and as the user named them. control: one that never knew."""

    base: Path
    student: Path
    control: Path | None
    names: dict[str, str | None]

    @classmethod
    def named(cls, *, base: str, student: str, control: str | None = None) -> "Models":
        """Found by folder or hub name. Raises ModelError if one is not there."""
        names = {"base": base, "student": student, "control": control}
        return cls(resolve_model(base), resolve_model(student), resolve_model(control) if control else None, names)

    @property
    def folders(self) -> "dict[ModelRole, Path]":
        """Each model that is there, in the order of all lists. The teacher is the base."""
        found: dict[ModelRole, Path] = {"base": self.base, "student": self.student}
        return found | ({"control": self.control} if self.control else {})

    def inputs(self, settings: Settings) -> dict[str, str]:
        """Hashes of all that determines what these models say under these settings."""
        found = {"base": base_inputs(settings, self.base), "student": hash_weights(self.student)}
        return found | ({"control": hash_weights(self.control)} if self.control else {})


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
            "choices": _contents(choice_files(settings)),
            "unseen": _contents(unseen_files(settings)),
            "tasks": in_own_process(task_digests, settings) if settings.evaluation.tasks else {},
            "asked": settings.evaluation.model_dump(mode="json", exclude=FILES),
            "dtype": settings.model.dtype,
        }
    )


def _contents(files: Mapping[str, Sequence[BaseModel]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [each.model_dump(mode="json") for each in questions] for name, questions in files.items()}


def holds_already(out: Path, inputs: dict[str, str], settings: Settings) -> bool:
    """Whether the file holds this evaluation; then it is shown again. Raises OutputExists if it holds anything else."""
    if not reusable(out, inputs):
        return False
    say(f"{out} holds this evaluation already.")
    print_scores(json.loads(out.read_bytes()), settings.evaluation.forget_files)
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
    """Write the file, put the scores into the student's card, and show them."""
    from stages.student.card import write_scores

    write_json(out, evaluation)
    write_scores(models.student, markdown_scores(evaluation, settings.evaluation.forget_files))
    print_scores(evaluation, settings.evaluation.forget_files)
    say(f"Scores and all answers are in {out}.")


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


def baseline_heard(path: Path | None, inputs: Mapping[str, str]) -> "Heard | None":
    """What base, teacher and this same control said in an earlier evaluation, if one is named.

    inputs: those of this evaluation. Raises SettingsError unless the earlier one was made alike.
    """
    from pipeline.hearing import Heard, nothing_heard

    if path is None:
        return None
    found, roles = _earlier(path, inputs)
    empty = nothing_heard()

    def frame(name: str, like: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame(found[name], schema=like.schema).filter(pl.col("model").is_in(roles))

    return Heard(
        frame("answers", empty.answers),
        frame("samples", empty.samples),
        frame("choice_answers", empty.choices),
        frame("membership_answers", empty.membership),
        [each for each in found["first_tokens"] if each["model"] in roles],
    )


def baseline_rows(path: Path | None, inputs: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """By key of an audit's parts, what stands in the earlier one of models that are the same here; raises as above."""
    if path is None:
        return {}
    found, roles = _earlier(path, inputs)
    keys = ["lens"]
    if found["run"]["inputs"].get("relearning") == inputs["relearning"]:
        keys += ["relearning", "relearning_answers"]
    return {key: [row for row in found.get(key) or () if row["model"] in roles] for key in keys}


def _earlier(path: Path, inputs: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The earlier evaluation, and the models in it whose rows stand here as well."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    earlier = found.get("run", {}).get("inputs", {})
    if earlier.get("base") != inputs["base"]:
        raise SettingsError(
            f"{path} was made with another base model, prefix, question file or setting.",
            "Its answers cannot stand beside this student's, so nothing was asked.",
            "Leave --baseline out.",
        )
    same_control = "control" in inputs and earlier.get("control") == inputs["control"]
    return found, (*TAKEN_OVER, "control") if same_control else TAKEN_OVER


def _hardware() -> str:
    # In a process of its own, because asking loads torch.
    from stages.language_model.hardware import describe_hardware

    return describe_hardware()
