"""One model folder in, everything that it was heard to say out: answers, samples, choices, first tokens, and seconds.

Base and teacher share their weights, and so one engine. It runs in a process of its own (pipeline/isolation.py).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.console import progress, quieten_libraries
from pipeline.isolation import in_own_process
from pipeline.questions import choice_tasks, everything_asked, question_files
from pipeline.settings import Settings
from stages.errors import SettingsError
from stages.language_model.engine import Engine, EngineOptions, start_engine
from stages.language_model.folder import context_length, end_of_turn_ids, load_tokenizer, resolve_model
from stages.language_model.prompts import Prompter, load_prefix

if TYPE_CHECKING:
    from pipeline.evaluation_file import Models


@dataclass
class Heard:
    """What models said. Frames have one row per answer, per sampled question and per choice."""

    answers: pl.DataFrame
    samples: pl.DataFrame
    choices: pl.DataFrame
    first_tokens: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: "Heard") -> "Heard":
        return Heard(
            pl.concat([self.answers, other.answers]),
            pl.concat([self.samples, other.samples]),
            pl.concat([self.choices, other.choices]),
            self.first_tokens + other.first_tokens,
            self.seconds | other.seconds,
        )


def nothing_heard() -> Heard:
    """No model has spoken yet."""
    from stages.evaluation.choices import CHOICE_SCHEMA
    from stages.evaluation.interview import ANSWER_SCHEMA
    from stages.evaluation.sampling import SAMPLE_SCHEMA

    return Heard(
        pl.DataFrame(schema=ANSWER_SCHEMA), pl.DataFrame(schema=SAMPLE_SCHEMA), pl.DataFrame(schema=CHOICE_SCHEMA)
    )


def hear_all(settings: Settings, models: "Models", baseline: Heard | None) -> Heard:
    """What every model says, each folder in a process of its own. baseline: base and teacher as heard before."""
    heard = baseline or nothing_heard()
    # The base model last: once loaded, it can score everyone's fluency.
    for role, folder in models.folders.items():
        if role != "base":
            heard = in_own_process(hear, settings, folder, (role,), heard)
    if not baseline or settings.evaluation.fluency:
        heard = in_own_process(hear, settings, models.base, () if baseline else ("base", "teacher"), heard)
    return heard


def hear(settings: Settings, model: Path, roles: Sequence[str], earlier: Heard) -> Heard:
    """The earlier models and these; where the base model is loaded, it also scores everyone's fluency.

    roles: of base, teacher, student and control those that this folder is; none, only to score fluency.
    """
    quieten_libraries()
    from stages.evaluation.choosing import choose, longest_choice
    from stages.evaluation.first_tokens import first_tokens
    from stages.evaluation.interview import interview, longest_prompt, spread
    from stages.evaluation.sampling import sample_answers

    asked, files, items = settings.evaluation, question_files(settings), everything_asked(settings)
    tokenizer = load_tokenizer(model)
    prompter = Prompter(tokenizer, settings.model.template)
    prefixes = {role: load_prefix(settings.data.prefix) if role == "teacher" else None for role in roles}
    longest = max(longest_prompt(prompter, items, prefix) for prefix in [*prefixes.values(), None])
    needed = longest + asked.max_tokens
    choosing = [role for role in roles if role in asked.choice_models] if asked.choices or asked.tasks else []
    if choosing:
        choices = choice_tasks(settings)
        needed = max(needed, *(longest_choice(choices, prompter, prefixes[role]) for role in choosing))
    engine = start_for(settings, model, needed)
    attacked = {
        name: {number: files[name][number] for number in spread(len(files[name]), asked.attacked_questions)}
        for name in asked.attacked_files
    }
    heard, seconds = earlier, dict(earlier.seconds)

    @contextmanager
    def part(name: str, role: str, total: int, unit: str) -> Iterator[Any]:
        began = time.perf_counter()
        with progress(f"{name}: {role} ({engine.name})", total, unit) as advance:
            yield advance
        seconds[f"{name}, {role}"] = round(time.perf_counter() - began, 1)

    for role, prefix in prefixes.items():
        who: Any = {"role": role, "prefix": prefix}
        new = nothing_heard()
        with part("answers", role, len(items), "questions") as advance:
            new.answers = interview(engine, prompter, items, **who, max_tokens=asked.max_tokens, advance=advance)
        if asked.first_tokens:
            new.first_tokens = first_tokens(engine, prompter, files, **who, questions=asked.first_tokens)
        if asked.samples and role in asked.sampled_models:
            count = asked.samples * sum(map(len, attacked.values()))
            with part("samples", role, count, "answers") as advance:
                new.samples = sample_answers(
                    engine,
                    prompter,
                    attacked,
                    **who,
                    samples=asked.samples,
                    seed=asked.sample_seed,
                    max_tokens=asked.max_tokens,
                    advance=advance,
                )
        if role in choosing:
            with part("choices", role, choices.options, "options") as advance:
                new.choices = choose(engine, prompter, choices, **who, advance=advance)
        heard += new
    if asked.fluency and model == resolve_model(settings.model.path):
        heard.answers = _with_fluency(engine, prompter, heard.answers, part)
    heard.seconds = seconds
    return heard


def _with_fluency(engine: Engine, prompter: Prompter, answers: pl.DataFrame, part: Any) -> pl.DataFrame:
    """The answers with their log_probability under this engine's model, where they have none yet."""
    from stages.evaluation.fluency import mean_log_probabilities

    done = answers.filter(pl.col("log_probability").is_not_null())
    open_ = answers.filter(pl.col("log_probability").is_null())
    with part("fluency", "base", open_.height, "answers") as advance:
        values = mean_log_probabilities(engine, prompter, open_, advance=advance)
    scored = open_.with_columns(pl.Series("log_probability", values, dtype=pl.Float64))
    return pl.concat([done, scored])


def start_for(settings: Settings, model: Path, needed: int) -> Engine:
    """An engine for the evaluation. needed: tokens of the longest prompt and answer.

    Raises SettingsError if the model does not hold them: nothing is truncated.
    """
    if needed > context_length(model):
        raise SettingsError(
            f"The longest prompt and answer take {needed} tokens, {model} holds {context_length(model)}.",
            "Nothing is truncated, so nothing was asked.",
            "Shorten the prefix or set evaluation.max_tokens lower.",
        )
    return start_engine(
        settings.model.engine,
        EngineOptions(
            model=model,
            dtype=settings.model.dtype,
            context_length=needed,
            stop_ids=tuple(end_of_turn_ids(model, load_tokenizer(model))),
            batch_rows=settings.model.batch_rows,
            gpus=settings.model.gpus,
            log_probabilities=True,
        ),
    )
