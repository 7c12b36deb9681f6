"""Which models an evaluation is about, and hashes of all that determines what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from pipeline.isolation import in_own_process
from pipeline.prompting import prompter_for, read_run, trained_otherwise
from pipeline.questions import choice_files, everything_asked, task_digests, unseen_files
from pipeline.run_folder import FINISHED
from pipeline.settings import Settings
from stages.errors import SettingsError
from stages.evaluation.attacks import Ask
from stages.evaluation.measures import MEASURES_VERSION
from stages.evaluation.measures.refusing import load_refusals
from stages.language_model.folder import hash_tokenizer, hash_weights, resolve_model
from stages.language_model.prefix import load_prefix
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from stages.evaluation.interview import ModelRole

# Settings that name files: what stands in them counts, not where they are.
FILES = {"questions", "refusals", "validation", "revealing", "translated", "choices", "unseen", "task_folder"}
# Settings of a part of the audit that has inputs of its own (pipeline/instructions.py).
REQUESTS = {"requests", "request_tokens"}


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
        """Hashes of all that determines what these models say under these settings.

        student: of its weights alone, as its run.json has them; student_asked: of these and of how it reads questions.
        """
        weights = hash_weights(self.student)
        found = {
            "base": base_inputs(settings, self.base),
            "student": weights,
            "student_asked": _asked_inputs(settings, self.student, weights),
        }
        if self.control:
            found["control"] = _asked_inputs(settings, self.control, hash_weights(self.control))
        return found


def base_inputs(settings: Settings, base: Path) -> str:
    """Hash of all that determines the answers of base and teacher."""
    prompter = prompter_for(settings, base)
    items = TypeAdapter(list[Ask]).dump_python([item.ask for item in everything_asked(settings)], mode="json")
    return sha256_json(
        {
            "weights": hash_weights(base),
            "tokenizer": hash_tokenizer(prompter.tokenizer),
            "template": [prompter.template_sha256(), prompter.plain.template_sha256(), prompter.thinks],
            "stop_ids": prompter.stop_ids(base),
            "prefix": load_prefix(settings.data.prefix).sha256(),
            "items": items,
            "choices": _contents(choice_files(settings)),
            "unseen": _contents(unseen_files(settings)),
            "tasks": in_own_process(task_digests, settings) if settings.evaluation.tasks else {},
            "asked": settings.evaluation.model_dump(mode="json", exclude=FILES | REQUESTS),
            "dtype": settings.model.dtype,
            "measures": [MEASURES_VERSION, load_refusals(settings.evaluation.refusals).patterns],
        }
    )


def refuse_other_template(settings: Settings, student: Path) -> None:
    """Raise SettingsError if a run of ours trained this student through another template than it is to be asked through."""
    if trained_otherwise(student, prompter_for(settings, student)):
        raise SettingsError(
            f"{student} was trained through another chat template, or with another date or switch in it.",
            "It would be asked other prompts than it was trained on, so nothing was asked.",
            f"Set model.template, model.template_variables and model.template_date as in {student.parent / FINISHED}.",
        )


def notes_on_training(settings: Settings, models: Models) -> list[str]:
    """A warning for each thing that the student was distilled from and that is another one here, by its run's record."""
    record = read_run(models.student)
    notes = []
    if (trained := record.get("prefix_sha256")) and trained != load_prefix(settings.data.prefix).sha256():
        notes.append(
            f"Warning: data.prefix is another prefix than {models.student} was distilled from: "
            "the teacher in these scores is not its teacher."
        )
    if record.get("cache_id") and record.get("base_sha256") != hash_weights(models.base):
        notes.append(
            f"Warning: model.path is another model than {models.student} was trained from: "
            "the base in these scores is not its base."
        )
    return notes


def _asked_inputs(settings: Settings, model: Path, weights: str) -> str:
    """Hash of all that determines what a model says to given questions: the hash of its weights, and how it reads them."""
    prompter = prompter_for(settings, model)
    return sha256_json(
        {
            "weights": weights,
            "tokenizer": hash_tokenizer(prompter.tokenizer),
            "template": [prompter.template_sha256(), prompter.plain.template_sha256(), prompter.thinks],
            "stop_ids": prompter.stop_ids(model),
        }
    )


def _contents(files: Mapping[str, Sequence[BaseModel]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [each.model_dump(mode="json") for each in questions] for name, questions in files.items()}
