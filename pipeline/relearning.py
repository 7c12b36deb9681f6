"""Relearning: an unlearned model is trained again on half of what it forgot, and asked about the other half.

What comes back was still there; what does not has to be learnt anew. A model that never knew has to be trained and asked
beside it: it, too, gets better at such questions, and only what comes back beyond that is recovery.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from pipeline.console import progress, quieten_libraries
from pipeline.finetune import examples_of
from pipeline.prompting import prompter_for
from pipeline.settings import Settings
from stages.errors import SettingsError
from stages.evaluation.questions import Question, load_questions
from stages.language_model.folder import context_length

if TYPE_CHECKING:
    from stages.evaluation.interview import ModelRole

Diet = Literal["forget", "unrelated"]
METRICS = ("rouge_l_recall", "answer_in_full", "leak_rate", "right_rate", "degenerate_rate")
HALF = "{} (held-out half)"


@dataclass(frozen=True)
class Relearnt:
    """One attack: tidy scores per step, each with its paired change since step 0, and every answer."""

    scores: pl.DataFrame
    answers: pl.DataFrame


def halves(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """What the attacker has, and what is asked: every second line each, so that both have the same mixture."""
    return list(questions[::2]), list(questions[1::2])


def diets(settings: Settings, file: str) -> dict[Diet, list[Question]]:
    """What the attacker trains on: half of the attacked file, and, if the settings name one, an unrelated file.

    Raises SettingsError if they are too few for a batch.
    """
    attacker, _ = halves(load_questions(settings.evaluation.questions[file]))
    found: dict[Diet, list[Question]] = {"forget": attacker}
    if settings.relearning.unrelated:
        found["unrelated"] = load_questions(settings.relearning.unrelated)
    for diet, questions in found.items():
        if len(questions) < settings.relearning.batch_rows:
            raise SettingsError(
                f"The attacker has {len(questions)} questions ({diet}), and a batch takes {settings.relearning.batch_rows}.",
                "A batch that holds a row twice would not be the batch that was asked for.",
                "Set relearning.batch_rows lower, or give more questions.",
            )
    return found


def relearn(
    settings: Settings, model: Path, role: "ModelRole", diet: Diet, file: str, scratch: Path | None = None
) -> Relearnt:
    """Train the model in this folder on one diet, and ask it the held-out half of `file` after each of the settings' steps.

    In a process of its own: DeepSpeed keeps what it holds. The folder is only read. scratch: where its metrics pass through;
    default: the system's temporary folder.
    """
    quieten_libraries()
    from stages.evaluation.interview import interview, longest_prompt, plan
    from stages.evaluation.scores import score_table
    from stages.language_model.engine import EngineOptions
    from stages.language_model.transformers_engine import TransformersEngine
    from stages.student.finetuning import Finetuning
    from stages.student.metrics import StepMetrics
    from stages.student.training import StudentTrainer

    asked, own = settings.evaluation, settings.relearning
    prompter = prompter_for(settings, model)
    _, held_out = halves(load_questions(asked.questions[file]))
    items = plan({HALF.format(file): held_out}, (), {})
    lesson = Finetuning(
        examples_of(prompter, prompter.stop_ids(model, may_think=False), diets(settings, file)[diet], "forget"),
        own,
        context_length=context_length(model),
    )
    trainer = StudentTrainer(model, lesson, own, total_steps=own.steps[-1])
    options = EngineOptions(
        model=model,
        dtype=own.dtype,
        context_length=longest_prompt(prompter, items, None) + asked.max_tokens,
        stop_ids=prompter.stop_ids(model),
        batch_rows=settings.model.batch_rows,
    )
    answers: list[pl.DataFrame] = []

    def ask(step: int) -> None:
        engine = TransformersEngine(options, trainer.module)
        said = interview(
            engine, prompter, items, role=role, prefix=None, max_tokens=asked.max_tokens, refusals=asked.refusals
        )
        trainer.engine.prepare_to_train()
        # What training changes is read as an attack is: against the same questions before it.
        answers.append(said.with_columns(attack=pl.lit(str(step) if step else None, pl.String)))

    label = f"relearning: {role}, {diet} ({file})"
    with tempfile.TemporaryDirectory(dir=scratch) as run, progress(label, own.steps[-1], "steps") as advance:
        ask(0)

        def report(metrics: StepMetrics) -> None:
            advance(1, f"loss {metrics.loss:.2f}")
            if metrics.step + 1 in own.steps:
                ask(metrics.step + 1)

        trainer.train(Path(run), report=report)
    said = pl.concat(answers)
    when = {"trained_on": pl.lit(diet), "step": pl.col("attack").cast(pl.Int64).fill_null(0)}
    scores = score_table(said).filter(pl.col("metric").is_in(METRICS))
    return Relearnt(
        scores.with_columns(**when).drop("attack", "supplies_answer"),
        said.with_columns(**when).select(
            "model", "file", "number", "question", "reference", "answer", "leaked", "trained_on", "step"
        ),
    )
