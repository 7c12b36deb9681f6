"""Settings and a model folder in, the one way in which that model is asked out."""

from pathlib import Path
from typing import Any

from pipeline.run_folder import FINISHED
from pipeline.settings import ModelSettings, Settings
from stages.files import read_json
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter


def prompter_for(settings: Settings, model: Path) -> Prompter:
    """Prompts as the settings want them, through the template of this model. Raises ModelError if it cannot be used."""
    return prompter_of(settings.model, model)


def prompter_of(how: ModelSettings, model: Path) -> Prompter:
    """The same, from the section [model] alone."""
    return Prompter(
        load_tokenizer(model),
        how.template,
        variables=how.template_variables,
        today=how.template_date,
        thinking=how.thinking,
    )


def read_run(model: Path) -> dict[str, Any]:
    """The record of the run of ours that trained this model; empty if there is none beside it."""
    record = model.parent / FINISHED
    return read_json(record) if record.is_file() else {}


def trained_otherwise(model: Path, prompter: Prompter) -> bool:
    """Whether a run of ours trained this model through another template than the prompter's."""
    trained = read_run(model).get("template_sha256")
    return trained is not None and trained != prompter.template_sha256()
