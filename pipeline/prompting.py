"""Settings and a model folder in, the one way in which that model is asked out."""

from pathlib import Path

from pipeline.settings import ModelSettings, Settings
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
