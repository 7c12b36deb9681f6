"""Settings and a model folder in, the one way in which that model is asked out."""

from pathlib import Path

from pipeline.settings import Settings
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter


def prompter_for(settings: Settings, model: Path) -> Prompter:
    """Prompts as the settings want them, through the template of this model. Raises ModelError if it cannot be used."""
    own = settings.model
    return Prompter(
        load_tokenizer(model),
        own.template,
        variables=own.template_variables,
        today=own.template_date,
        thinking=own.thinking,
    )
