"""Model folders in, everything that they were heard to say out: answers, samples, choices, first tokens, and seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.console import quieten_libraries
from pipeline.isolation import in_own_process
from pipeline.known import Numbers, questions_to_attack
from pipeline.settings import Settings
from stages.language_model.folder import resolve_model

if TYPE_CHECKING:
    from pipeline.models import Models
    from stages.evaluation.interview import ModelRole


@dataclass
class Heard:
    """What models said. One row per answer, per sampled question, per multiple choice, per answer tried for membership."""

    answers: pl.DataFrame
    samples: pl.DataFrame
    choices: pl.DataFrame
    membership: pl.DataFrame
    first_tokens: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: "Heard") -> "Heard":
        return Heard(
            pl.concat([self.answers, other.answers]),
            pl.concat([self.samples, other.samples]),
            pl.concat([self.choices, other.choices]),
            pl.concat([self.membership, other.membership]),
            self.first_tokens + other.first_tokens,
            self.seconds | other.seconds,
        )


def nothing_heard() -> Heard:
    """No model has spoken yet."""
    from stages.evaluation.choices import CHOICE_SCHEMA
    from stages.evaluation.interview import ANSWER_SCHEMA
    from stages.evaluation.membership import MEMBERSHIP_SCHEMA
    from stages.evaluation.sampling import SAMPLE_SCHEMA

    return Heard(
        pl.DataFrame(schema=ANSWER_SCHEMA),
        pl.DataFrame(schema=SAMPLE_SCHEMA),
        pl.DataFrame(schema=CHOICE_SCHEMA),
        pl.DataFrame(schema=MEMBERSHIP_SCHEMA),
    )


def hear_all(settings: Settings, models: "Models", baseline: Heard | None) -> Heard:
    """What every model says, each folder in a process of its own. baseline: models as heard before."""
    heard = baseline or nothing_heard()
    known = set(heard.answers["model"])
    attacked = questions_to_attack(settings, models.base, baseline.answers if baseline else None)
    # The base model last: once loaded, it can score everyone's fluency.
    for role, folder in models.folders.items():
        if role != "base" and role not in known:
            heard = in_own_process(hear, settings, folder, (role,), heard, attacked)
    if not baseline or settings.evaluation.fluency:
        heard = in_own_process(hear, settings, models.base, () if baseline else ("base", "teacher"), heard, attacked)
    return heard


def hear(settings: Settings, model: Path, roles: "Sequence[ModelRole]", earlier: Heard, attacked: Numbers) -> Heard:
    """The earlier models and these; where the base model is loaded, it also scores everyone's fluency.

    attacked: the questions that are attacked and sampled.
    roles: of base, teacher, student and control those that this folder is; none, only to score fluency.
    """
    quieten_libraries()
    from pipeline.session import Session

    session, heard = Session(settings, model, roles, attacked), earlier
    for role in roles:
        new = nothing_heard()
        new.answers = session.answers(role)
        new.first_tokens = session.first_tokens(role)
        for part in ("samples", "choices", "membership"):
            frame = getattr(session, part)(role)
            if frame is not None:
                setattr(new, part, frame)
        heard += new
    if settings.evaluation.fluency and model == resolve_model(settings.model.path):
        heard.answers = session.with_fluency(heard.answers)
    heard.seconds |= session.seconds
    return heard
