"""Every question of the tasks put to one model: lm-eval asks and scores, an engine answers, one row per question out."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from stages.errors import DataError
from stages.evaluation.choice_tasks import ChoiceTasks, seed
from stages.evaluation.choices import CHOICE_SCHEMA
from stages.evaluation.interview import ModelRole
from stages.language_model.engine import Engine
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter


def longest_choice(asked: ChoiceTasks, prompter: Prompter, prefix: Prefix | None) -> int:
    """Tokens of the longest prompt with its option, and the one that an engine makes after it."""
    from stages.evaluation.harness import Ruler

    ruler = Ruler(prompter, prefix)
    for task in asked.tasks.values():
        ruler.loglikelihood(task.instances)
    return ruler.longest + 1


def choose(
    engine: Engine,
    prompter: Prompter,
    asked: ChoiceTasks,
    *,
    role: ModelRole,
    prefix: Prefix | None,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """The likeliest option of every question.

    Returns one row per question, columns `CHOICE_SCHEMA`. The engine must have been started for log-probabilities.
    Raises DataError for a question of a task whose right option is none of its options.
    """
    from stages.evaluation.harness import EngineModel, run

    seed(asked.tasks)  # the same examples as were laid out, for every model
    samples = run(EngineModel(engine, prompter, prefix, advance), asked.tasks)
    rows = [
        {
            "model": role,
            "file": name,
            "number": asked.first[name] + sample["doc_id"],
            **_answered(name, task, sample, asked.measure[name]),
            "origin": asked.origin[name],
            "measure": asked.measure[name],
            "groups": list(asked.groups[name]),
        }
        for name, task in asked.tasks.items()
        for sample in samples[name]
        if sample["filter"] == samples[name][0]["filter"]  # each has all questions; the first is the plain one
    ]
    return pl.DataFrame(rows, schema=CHOICE_SCHEMA)


def _answered(name: str, task: Any, sample: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """Question, right, chosen and correct of one of lm-eval's samples. It keeps no choice, only whether it was right."""
    doc = sample["doc"]
    options = task.doc_to_choice(doc)
    values = np.array([said[0][0] for said in sample["resps"][: len(options)]])
    if measure == "acc_norm":
        values = values / [len(option) for option in options]
    chosen = int(np.argmax(values))
    target = task.doc_to_text(doc) if task.multiple_input else sample["target"]
    targets = target if isinstance(target, list) else [target]
    right = [options.index(one) if isinstance(one, str) and one in options else one for one in targets]
    if not all(isinstance(one, int) and 0 <= one < len(options) for one in right):
        raise DataError(
            f"{name}: question {sample['doc_id']} has the right option {target!r}, which is none of {options}."
        )
    correct = sample[measure] == 1
    assert correct == (chosen in right), "lm-eval counts otherwise"
    # Where letters are scored, the words behind them say more.
    named = doc.get("choices")
    words = named if isinstance(named, list) and len(named) == len(options) else options
    return {
        "question": str(doc.get("question") or sample["arguments"][0][0]),
        "right": " | ".join(str(words[one]) for one in right),
        "chosen": str(words[chosen]),
        "correct": correct,
    }
