"""Multiple choice by likelihood: which option does the model find likeliest? Nothing is generated.

Lines of `{"question", "choices", "answer": index}` in, one row per question and the share answered rightly out. Prompts are
plain text (`Question: … Answer:`), as is usual for this kind of test; the teacher's stand behind its prefix.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
from pydantic import Field, model_validator

from stages.evaluation.interview import ModelRole
from stages.evaluation.metrics import mean_with_interval
from stages.evaluation.questions import Asked, ChoiceForm, load_records
from stages.language_model.engine import Engine
from stages.language_model.prompts import Prefix, Prompter, Turn

LETTERS = "ABCDEFGHIJ"
CHOICE_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "number": pl.Int64,
    "question": pl.String,
    "right": pl.String,
    "chosen": pl.String,
    "correct": pl.Boolean,
}
POINTS = 100.0


class ChoiceQuestion(Asked):
    """One question with its options."""

    choices: tuple[str, ...] = Field(min_length=2, max_length=len(LETTERS), description="Options.")
    answer: int = Field(ge=0, description="Index of the right option, from 0.")

    @model_validator(mode="after")
    def _sound(self) -> "ChoiceQuestion":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, and there are {len(self.choices)} choices from 0")
        if len(set(self.choices)) < len(self.choices) or not all(self.choices):
            raise ValueError("two choices are equal, or one is empty")
        return self


def load_choices(path: Path) -> list[ChoiceQuestion]:
    """All questions of a file. Raises DataError as `load_questions` does."""
    example = '{"question": "…", "choices": ["…", "…"], "answer": 0}'
    return load_records(path, ChoiceQuestion, example, "evaluation.choices.general_knowledge=…")


def choose(
    engine: Engine,
    prompter: Prompter,
    files: Mapping[str, Sequence[ChoiceQuestion]],
    *,
    role: ModelRole,
    prefix: Prefix | None,
    shots: int,
    form: ChoiceForm,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """The likeliest option of every question but the first `shots` of a file, which are shown as solved examples.

    Returns one row per question, columns `CHOICE_SCHEMA`. The engine must have been started for log-probabilities.
    """
    asked, prompts, options = _laid_out(prompter, files, prefix, shots, form)
    scored = iter(engine.log_probabilities(prompts, options, advance=advance))
    records = []
    for file, number, question in asked:
        # Letters are of one length; an option's words are compared per character, or the shortest would win.
        likelihoods = [float(next(scored).sum()) / len(option) for option in _options(question, form)]
        chosen = max(range(len(likelihoods)), key=lambda place: likelihoods[place])
        records.append(
            {
                "model": role,
                "file": file,
                "number": number,
                "question": question.question,
                "right": question.choices[question.answer],
                "chosen": question.choices[chosen],
                "correct": chosen == question.answer,
            }
        )
    return pl.DataFrame(records, schema=CHOICE_SCHEMA)


def longest_choice(
    prompter: Prompter,
    files: Mapping[str, Sequence[ChoiceQuestion]],
    prefix: Prefix | None,
    shots: int,
    form: ChoiceForm,
) -> int:
    """Tokens of the longest prompt with its option, and the one that an engine makes after it."""
    _, prompts, options = _laid_out(prompter, files, prefix, shots, form)
    return max(len(prompt) + len(option) for prompt, option in zip(prompts, options, strict=True)) + 1


def _laid_out(
    prompter: Prompter,
    files: Mapping[str, Sequence[ChoiceQuestion]],
    prefix: Prefix | None,
    shots: int,
    form: ChoiceForm,
) -> tuple[list[tuple[str, int, ChoiceQuestion]], list[list[int]], list[list[int]]]:
    """Scored questions with file and number; then token ids of prompt and option, one pair per option."""
    plain = Prompter(prompter.tokenizer, "plain")
    asked: list[tuple[str, int, ChoiceQuestion]] = []
    prompts: list[list[int]] = []
    options: list[list[int]] = []
    for file, questions in files.items():
        examples = [_solved(each, form) for each in questions[:shots]]
        for number, question in enumerate(questions[shots:], start=shots):
            asked.append((file, number, question))
            ids = plain.ids(_query(question, form), prefix, turns=examples)
            for option in _options(question, form):
                prompts.append(ids)
                # With the space before it: most tokenizers make it part of the word.
                options.append(list(plain.tokenizer.encode(f" {option}", add_special_tokens=False)))
    return asked, prompts, options


def choice_scores(chosen: pl.DataFrame) -> pl.DataFrame:
    """Tidy: per model and file the share answered rightly, in points, with its interval and n."""
    rows = [
        {
            "model": model,
            "file": file,
            "metric": "accuracy",
            **vars(mean_with_interval((group["correct"].cast(pl.Float64) * POINTS).to_list())),
        }
        for (model, file), group in chosen.group_by(["model", "file"], maintain_order=True)
    ]
    schema = {"model": pl.String, "file": pl.String, "metric": pl.String,
              "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _options(question: ChoiceQuestion, form: ChoiceForm) -> Sequence[str]:
    return LETTERS[: len(question.choices)] if form == "letters" else question.choices


def _query(question: ChoiceQuestion, form: ChoiceForm) -> str:
    if form == "text":
        return question.question
    listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    return "\n".join([question.question, *listed])


def _solved(question: ChoiceQuestion, form: ChoiceForm) -> Turn:
    return Turn(user=_query(question, form), assistant=_options(question, form)[question.answer])
