"""The parts of an audit beyond questions and answers: settings and models in, tidy rows by key out.

Each measures in processes of its own, and says under `not_measured` what it leaves out.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.console import progress, quieten_libraries
from pipeline.instructions import hear_requests
from pipeline.isolation import in_own_process
from pipeline.models import Models
from pipeline.prompting import prompter_for
from pipeline.questions import question_files
from pipeline.session import start_for
from pipeline.settings import Settings
from stages.errors import DuetError

if TYPE_CHECKING:
    from stages.evaluation.interview import ModelRole

PRECISIONS = ("int8", "int4")
# What comes back by rounding is held against a model that never knew.
ROUNDED = ("student", "control")
# Begins the names of temporary folders, which an audit that was killed leaves to the next one.
SCRATCH = "scratch-"
LENS_QUESTIONS = 64


@dataclass(frozen=True)
class Context:
    """What a part starts from.

    heard: the questions' part of the audit. known: by key, rows of models that an earlier audit has measured already.
    scratch: a folder for what is large and passes.
    """

    settings: Settings
    models: Models
    heard: Mapping[str, Any]
    known: Mapping[str, Sequence[Mapping[str, Any]]]
    scratch: Path

    def left(self, key: str) -> "dict[ModelRole, Path]":
        """The models that have no rows under this key yet."""
        measured = {row["model"] for row in self.known.get(key, ())}
        return {role: folder for role, folder in self.models.folders.items() if role not in measured}


@dataclass(frozen=True)
class Part:
    """keys: what it puts into the file; null under each where it was left out or failed."""

    keys: tuple[str, ...]
    measure: Callable[[Context], dict[str, Any]]


def quantised(context: Context) -> dict[str, Any]:
    """Student, and control, with weights on coarser grids, asked every question without attack, and what that changes."""
    from stages.evaluation.interview import ANSWER_SCHEMA
    from stages.evaluation.scores import score_table

    heard = pl.DataFrame(context.heard["answers"], schema=ANSWER_SCHEMA)
    folders = {role: folder for role, folder in context.models.folders.items() if role in ROUNDED}
    plain = heard.filter(pl.col("model").is_in(list(folders)) & pl.col("attack").is_null())
    said: list[pl.DataFrame] = []
    refused = {}
    for weights in PRECISIONS:
        try:
            said += [
                in_own_process(_ask_quantised, context.settings, folder, role, weights, context.scratch)
                for role, folder in folders.items()
            ]
        except DuetError as error:
            if not said and weights == PRECISIONS[-1]:
                raise
            refused[f"quantisation, {weights}"] = error.found
    # Rounding is read as an attack is: against the same questions of the same model without it.
    scores = score_table(pl.concat([plain, *said])).filter(pl.col("attack").is_not_null())
    kept = ("model", "weights", "file", "number", "question", "reference", "answer", "leaked")
    return {
        "quantisation": scores.rename({"attack": "weights"}).drop("supplies_answer").to_dicts(),
        "quantisation_answers": pl.concat(said).rename({"attack": "weights"}).select(kept).to_dicts(),
        "not_measured": refused,
    }


def instructions(context: Context) -> dict[str, Any]:
    """What base, student and control answer to everyday requests, and how likely each answer is under the base."""
    from stages.evaluation.instructions import INSTRUCTION_SCHEMA

    settings, key = context.settings, "instructions"
    if settings.evaluation.requests is None:
        return {key: None, "not_measured": {key: "no file under evaluation.requests"}}
    answers, left = pl.DataFrame(context.known.get(key, ()), schema=INSTRUCTION_SCHEMA), context.left(key)
    # The base model last: once loaded, it can score everyone's answers.
    for role, folder in left.items():
        if role != "base":
            answers = in_own_process(hear_requests, settings, folder, role, answers, False)
    base = "base" if "base" in left else None
    answers = in_own_process(hear_requests, settings, context.models.base, base, answers, True)
    return {key: pl.concat([answers.filter(pl.col("model") == role) for role in context.models.folders]).to_dicts()}


def layers(context: Context) -> dict[str, Any]:
    """After which layer the answer is to be read: the logit lens."""
    from stages.evaluation.lens import lens_scores

    seen = [in_own_process(_lens, context.settings, folder, role) for role, folder in context.left("lens").items()]
    return {"lens": [*context.known.get("lens", ()), *lens_scores(pl.concat(seen)).to_dicts()]}


def moved(context: Context) -> dict[str, Any]:
    """How far training has moved the weights, layer by layer."""
    from stages.evaluation.weight_change import weight_change

    return {"weight_change": weight_change(context.models.base, context.models.student).to_dicts()}


def relearnt(context: Context) -> dict[str, Any]:
    """Student, and the model that never knew, trained again: on half of what was forgotten, and on other matters."""
    from pipeline.relearning import diets, relearn

    settings = context.settings
    scores, answers = [], []
    for file in settings.evaluation.attacked_files:
        for diet in diets(settings, file):
            for role, folder in context.left("relearning").items():
                if role != "base":
                    context.scratch.mkdir(parents=True, exist_ok=True)
                    with tempfile.TemporaryDirectory(dir=context.scratch, prefix=SCRATCH) as scratch:
                        curve = in_own_process(relearn, settings, folder, role, diet, file, Path(scratch))
                    scores.append(curve.scores)
                    answers.append(curve.answers)
    unrelated = {} if settings.relearning.unrelated else {"relearning, unrelated": "no file under relearning.unrelated"}
    return {
        "relearning": pl.concat(scores).to_dicts() + list(context.known.get("relearning", ())),
        "relearning_answers": pl.concat(answers).to_dicts() + list(context.known.get("relearning_answers", ())),
        "not_measured": unrelated,
    }


PARTS = {
    "instructions": Part(("instructions",), instructions),
    "quantisation": Part(("quantisation", "quantisation_answers"), quantised),
    "lens": Part(("lens",), layers),
    "weight-change": Part(("weight_change",), moved),
    "relearning": Part(("relearning", "relearning_answers"), relearnt),
}


def _ask_quantised(settings: Settings, model: Path, role: "ModelRole", weights: Any, scratch: Path) -> pl.DataFrame:
    """Answers of the rounded model, its weights' name in the place of an attack's."""
    quieten_libraries()
    from stages.evaluation.interview import interview, longest_prompt, plan
    from stages.evaluation.quantisation import quantised_copy

    asked, items = settings.evaluation, plan(question_files(settings), (), {})
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=SCRATCH) as folder:
        copy = quantised_copy(model, Path(folder) / "model", weights=weights, dtype=settings.model.dtype)
        prompter = prompter_for(settings, copy)
        engine = start_for(settings, copy, longest_prompt(prompter, items, None) + asked.max_tokens)
        with progress(f"answers: {role}, {weights} ({engine.name})", len(items), "questions") as advance:
            said = interview(
                engine,
                prompter,
                items,
                role=role,
                prefix=None,
                max_tokens=asked.max_tokens,
                refusals=asked.refusals,
                advance=advance,
            )
    return said.with_columns(attack=pl.lit(weights))


def _lens(settings: Settings, folder: Path, role: "ModelRole") -> pl.DataFrame:
    quieten_libraries()
    from stages.evaluation.interview import spread
    from stages.evaluation.lens import lens

    prompter = prompter_for(settings, folder)
    most = settings.evaluation.attacked_questions or LENS_QUESTIONS
    files = {
        name: [each[number] for number in spread(len(each), most)] for name, each in question_files(settings).items()
    }
    with progress(f"layers: {role} (transformers)", sum(map(len, files.values())), "questions") as advance:
        return lens(
            folder,
            prompter,
            files,
            role=role,
            dtype=settings.model.dtype,
            batch_rows=settings.model.batch_rows,
            advance=advance,
        )
