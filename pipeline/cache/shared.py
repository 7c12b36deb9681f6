"""What the cache commands share: their argument, tokens as text, and results for people or for programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.console import print_json, quieten_libraries, say
from pipeline.teacher_cache import describe
from stages.errors import ModelError
from stages.logit_cache.manifest import Manifest

folder = click.Path(path_type=Path, exists=True, file_okay=False)
WITHOUT_TOKENIZER = "Token ids cannot be turned into text without the tokenizer that they belong to."
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def report(cache: Path, manifest: Manifest, as_json: bool) -> None:
    """What a command has made: a line for people, the manifest for programs."""
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        say(describe(cache, manifest))


def local_teacher(manifest: Manifest) -> Path | None:
    """The teacher's folder as the manifest names it, or None unless it is one here: its sender chose the name."""
    named = manifest.provenance.model
    try:
        return Path(named) if named and Path(named).is_dir() else None
    except (OSError, ValueError):  # a name that no file can have, or below a folder that may not be read
        return None


def token_names(manifest: Manifest, model: str | None) -> Callable[[int], str]:
    """Turns ids into text, by the tokenizer of `model` or of the teacher; into `#id` if there is none, and says so.

    Raises ModelError if the model named has another tokenizer: ids would be shown as other words.
    """
    try:
        tokenizer = tokenizer_of(manifest, model)
    except ModelError as error:
        if model:
            raise
        say(f"{error.found} Tokens are shown as ids. {error.next_step}")
        return lambda token: f"#{token}"
    return lambda token: repr(tokenizer.decode([token]))


def tokenizer_of(manifest: Manifest, model: str | None) -> Any:
    """The tokenizer of `model`, or of the teacher where its folder is here. Raises ModelError if it is not the cache's."""
    quieten_libraries()
    from stages.language_model.folder import hash_tokenizer, load_tokenizer, resolve_model

    named = model or manifest.provenance.model
    advice = "Name the model that was captured, or one with its tokenizer:  --model DIR"
    if not model and not local_teacher(manifest):
        raise ModelError(f"The teacher {named} is not here.", WITHOUT_TOKENIZER, advice)
    try:
        tokenizer = load_tokenizer(resolve_model(named))
    except ModelError as error:
        if model:
            raise
        raise ModelError(
            f"{named}, which the manifest names, holds no usable tokenizer.", WITHOUT_TOKENIZER, advice
        ) from error
    if hash_tokenizer(tokenizer) != manifest.fingerprint.tokenizer_sha256:
        raise ModelError(f"{named} has another tokenizer than the cache.", "Ids would be shown as other words.", advice)
    return tokenizer
