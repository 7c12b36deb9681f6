"""The parts of an audit beyond questions and answers: settings and models in, tidy rows by key out.

Each measures in processes of its own, and says under `not_measured` what it leaves out.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.console import progress, quieten_libraries
from pipeline.evaluation_file import Models
from pipeline.isolation import in_own_process
from pipeline.questions import question_files
from pipeline.session import start_for
from pipeline.settings import Settings
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter

if TYPE_CHECKING:
    from stages.evaluation.interview import ModelRole

PRECISIONS = ("int8", "int4")
LENS_QUESTIONS = 64


@dataclass(frozen=True)
class Part:
    """keys: what it puts into the file; null under each where it was left out or failed."""

    keys: tuple[str, ...]
    measure: Callable[[Settings, Models], dict[str, Any]]


def quantised(settings: Settings, models: Models) -> dict[str, Any]:
    """The student with weights on coarser grids, asked every question without attack."""
    tables, answers = [], []
    for weights in PRECISIONS:
        scores, said = in_own_process(_ask_quantised, settings, models.student, weights)
        tables.append(scores)
        answers.append(said)
    return {"quantisation": pl.concat(tables).to_dicts(), "quantisation_answers": pl.concat(answers).to_dicts()}


def inside(settings: Settings, models: Models) -> dict[str, Any]:
    """Where in the network the answer is to be read, and where training has moved its weights."""
    from stages.evaluation.lens import lens_scores
    from stages.evaluation.weight_change import weight_change

    seen = [in_own_process(_lens, settings, folder, role) for role, folder in models.folders.items()]
    return {
        "lens": lens_scores(pl.concat(seen)).to_dicts(),
        "weight_change": weight_change(models.base, models.student).to_dicts(),
    }


def relearnt(settings: Settings, models: Models) -> dict[str, Any]:
    """Student, and the model that never knew, trained again: on half of what was forgotten, and on other matters."""
    from pipeline.relearning import diets, relearn

    scores, answers = [], []
    for file in settings.evaluation.attacked_files:
        for diet in diets(settings, file):
            for role, folder in models.folders.items():
                if role != "base":
                    curve = in_own_process(relearn, settings, folder, role, diet, file)
                    scores.append(curve.scores)
                    answers.append(curve.answers)
    unrelated = {} if settings.relearning.unrelated else {"relearning, unrelated": "no file under relearning.unrelated"}
    return {
        "relearning": pl.concat(scores).to_dicts(),
        "relearning_answers": pl.concat(answers).to_dicts(),
        "not_measured": unrelated,
    }


PARTS = {
    "quantisation": Part(("quantisation", "quantisation_answers"), quantised),
    "inside": Part(("lens", "weight_change"), inside),
    "relearning": Part(("relearning", "relearning_answers"), relearnt),
}


def _ask_quantised(settings: Settings, student: Path, weights: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    quieten_libraries()
    from stages.evaluation.interview import interview, longest_prompt, plan
    from stages.evaluation.quantisation import quantised_copy
    from stages.evaluation.scores import score_table

    items = plan(question_files(settings), (), {})
    with tempfile.TemporaryDirectory() as folder:
        copy = quantised_copy(student, Path(folder) / "model", weights=weights, dtype=settings.model.dtype)
        prompter = Prompter(load_tokenizer(copy), settings.model.template)
        engine = start_for(settings, copy, longest_prompt(prompter, items, None) + settings.evaluation.max_tokens)
        with progress(f"answers: student, {weights} ({engine.name})", len(items), "questions") as advance:
            said = interview(
                engine,
                prompter,
                items,
                role="student",
                prefix=None,
                max_tokens=settings.evaluation.max_tokens,
                advance=advance,
            )
    named = pl.lit(weights).alias("weights")
    scores = score_table(said).select("model", named, "file", "metric", "mean", "low", "high", "n")
    return scores, said.select("model", named, "file", "number", "question", "reference", "answer")


def _lens(settings: Settings, folder: Path, role: "ModelRole") -> pl.DataFrame:
    quieten_libraries()
    from stages.evaluation.lens import lens

    prompter = Prompter(load_tokenizer(folder), settings.model.template)
    files = {name: each[:LENS_QUESTIONS] for name, each in question_files(settings).items()}
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
