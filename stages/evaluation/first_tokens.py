"""A few questions in, the likeliest first tokens of each model's answer out: the paper's figure 1."""

from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from stages.evaluation.interview import ModelRole
from stages.evaluation.questions import Question
from stages.language_model.engine import Engine
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter

TOP = 10


def first_tokens(
    engine: Engine,
    prompter: Prompter,
    files: Mapping[str, Sequence[Question]],
    *,
    role: ModelRole,
    prefix: Prefix | None,
    questions: int,
) -> list[dict[str, Any]]:
    """Of the first few questions of every file, the ten likeliest first tokens with their probability (0–1).

    The engine must have been started for log-probabilities.
    """
    asked = [(file, question) for file, all_of in files.items() for question in all_of[:questions]]
    prompts = [prompter.ids(question.question, prefix) for _, question in asked]
    said = engine.continue_greedily(prompts, max_tokens=1, top_k=TOP)
    return [
        {
            "model": role,
            "file": file,
            "question": question.question,
            "reference": question.answer,
            "tokens": [
                {"token": prompter.tokenizer.decode([token]), "probability": exp(value)}
                for token, value in zip(one.topk_ids[0].tolist(), one.topk_logits[0].tolist(), strict=True)
            ],
        }
        for (file, question), one in zip(asked, said, strict=True)
    ]
