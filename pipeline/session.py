"""One loaded model and all that is asked of it: answers, samples, multiple choice, membership, fluency.

Base and teacher share their weights, and so one session. It lives in a process of its own (pipeline/isolation.py).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.console import progress, say
from pipeline.prompting import prompter_for
from pipeline.questions import choice_tasks, everything_asked, question_files, unseen_files
from pipeline.settings import Settings
from stages.errors import SettingsError
from stages.evaluation.questions import Question
from stages.language_model.engine import Engine, EngineOptions, start_engine
from stages.language_model.folder import context_length
from stages.language_model.prefix import Prefix, load_prefix

if TYPE_CHECKING:
    from pipeline.known import Numbers
    from stages.evaluation.interview import ModelRole

SHORTEN = "Shorten the prefix or set evaluation.max_tokens lower."


class Session:
    """The model in a folder, in the roles that it has: base and teacher, student, or control; none, to score others only.

    attacked: by attacked file the numbers of the questions that are attacked and sampled.
    seconds: by part and role, what each took. Raises SettingsError if a prompt is longer than the model reads.
    """

    def __init__(self, settings: Settings, model: Path, roles: "Sequence[ModelRole]", attacked: "Numbers") -> None:
        from stages.evaluation.choosing import longest_choice
        from stages.evaluation.interview import longest_prompt
        from stages.evaluation.membership import longest_membership

        self._asked = settings.evaluation
        self._prompter = prompter_for(settings, model)
        self._files, self._items = question_files(settings), everything_asked(settings, attacked)
        self._attacked = attacked
        self._unseen = unseen_files(settings)
        self._prefixes: dict[ModelRole, Prefix | None] = {
            role: load_prefix(settings.data.prefix) if role == "teacher" else None for role in roles
        }
        for note in self._prompter.notes if any(self._prefixes.values()) else ():
            say(note)
        self._choosing = (
            [role for role in roles if role in self._asked.choice_models]
            if self._asked.choices or self._asked.tasks
            else []
        )
        self._choices = choice_tasks(settings) if self._choosing else None
        prompts = [longest_prompt(self._prompter, self._items, each) for each in (*self._prefixes.values(), None)]
        needed = [max(prompts) + self._asked.max_tokens]
        if self._choices:
            needed += [longest_choice(self._choices, self._prompter, self._prefixes[role]) for role in self._choosing]
        if self._asked.membership:
            needed.append(longest_membership(self._prompter, self._whole_attacked, self._unseen, None))
        self._engine = start_for(settings, model, max(needed))
        self.seconds: dict[str, float] = {}

    def answers(self, role: "ModelRole") -> pl.DataFrame:
        """Greedy answers to every question, with and without attack."""
        from stages.evaluation.interview import interview

        with self._part("answers", role, len(self._items), "questions") as advance:
            found = interview(
                self._engine,
                self._prompter,
                self._items,
                role=role,
                prefix=self._prefixes[role],
                max_tokens=self._asked.max_tokens,
                refusals=self._asked.refusals,
                advance=advance,
            )
        if unanswered := found.filter((pl.col("thinking") != "") & (pl.col("answer") == "")).height:
            say(
                f"Warning: {unanswered} of {found.height} answers of the {role} never came: the thinking took all "
                f"{self._asked.max_tokens} tokens. Allow more:  --set evaluation.max_tokens=…"
            )
        return found

    def first_tokens(self, role: "ModelRole") -> list[dict[str, Any]]:
        """The likeliest first tokens of a few questions."""
        from stages.evaluation.first_tokens import first_tokens

        if not self._asked.first_tokens:
            return []
        return first_tokens(
            self._engine,
            self._prompter,
            self._files,
            role=role,
            prefix=self._prefixes[role],
            questions=self._asked.first_tokens,
        )

    def samples(self, role: "ModelRole") -> pl.DataFrame | None:
        """Sampled answers to the attacked questions; None where this role is not sampled."""
        from stages.evaluation.sampling import sample_answers

        asked = self._asked
        if not asked.samples or role not in asked.sampled_models:
            return None
        attacked: dict[str, Mapping[int, Question]] = {
            name: {number: questions[number] for number in self._attacked[name]}
            for name, questions in self._whole_attacked.items()
        }
        with self._part("samples", role, asked.samples * sum(map(len, attacked.values())), "answers") as advance:
            return sample_answers(
                self._engine,
                self._prompter,
                attacked,
                role=role,
                prefix=self._prefixes[role],
                samples=asked.samples,
                seed=asked.sample_seed,
                max_tokens=asked.max_tokens,
                advance=advance,
            )

    def choices(self, role: "ModelRole") -> pl.DataFrame | None:
        """The option that is likeliest to the model, of every multiple-choice question; None where there are none."""
        from stages.evaluation.choosing import choose

        if self._choices is None or role not in self._choosing:
            return None
        with self._part("choices", role, self._choices.options, "options") as advance:
            return choose(
                self._engine, self._prompter, self._choices, role=role, prefix=self._prefixes[role], advance=advance
            )

    def membership(self, role: "ModelRole") -> pl.DataFrame | None:
        """How likely true and other answers are. Not of the teacher: what is asked about is weights, and it has the base's."""
        from stages.evaluation.membership import membership, membership_items

        if not self._asked.membership or role == "teacher":
            return None
        total = len(membership_items(self._whole_attacked, self._unseen))
        with self._part("membership", role, total, "answers") as advance:
            return membership(
                self._engine,
                self._prompter,
                self._whole_attacked,
                self._unseen,
                role=role,
                prefix=None,
                advance=advance,
            )

    def with_fluency(self, answers: pl.DataFrame) -> pl.DataFrame:
        """The answers with their log_probability under this model, where they are to have one and have none yet."""
        from stages.evaluation.fluency import mean_log_probabilities, unscored

        places = unscored(answers, self._asked.attacked_questions)
        with self._part("fluency", "base", len(places), "answers") as advance:
            values = mean_log_probabilities(self._engine, self._prompter, answers[places], advance=advance)
        found = answers["log_probability"].scatter(places, values)
        return answers.with_columns(found)

    @property
    def _whole_attacked(self) -> dict[str, list[Question]]:
        return {name: self._files[name] for name in self._asked.attacked_files}

    @contextmanager
    def _part(self, name: str, role: str, total: int, unit: str) -> Iterator[Any]:
        began = time.perf_counter()
        with progress(f"{name}: {role} ({self._engine.name})", total, unit) as advance:
            yield advance
        self.seconds[f"{name}, {role}"] = round(time.perf_counter() - began, 1)


def start_for(settings: Settings, model: Path, needed: int, *, advice: str = SHORTEN) -> Engine:
    """An engine for the evaluation. needed: tokens of the longest prompt and answer. advice: where they are too many.

    Raises SettingsError if the model does not hold them: nothing is truncated.
    """
    limit = context_length(model)
    if limit is not None and needed > limit:
        raise SettingsError(
            f"The longest prompt and answer take {needed} tokens, {model} holds {limit}.",
            "Nothing is truncated, so nothing was asked.",
            advice,
        )
    return start_engine(
        settings.model.engine,
        EngineOptions(
            model=model,
            dtype=settings.model.dtype,
            context_length=needed,
            stop_ids=prompter_for(settings, model).stop_ids(model),
            batch_rows=settings.model.batch_rows,
            gpus=settings.model.gpus,
            log_probabilities=True,
        ),
    )
