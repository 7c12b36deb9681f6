"""A frozen cache and a student: may the one teach the other? Compared before anything is trained, by contents alone.

Compared is what the cache's fingerprint says of the student: tokenizer, vocabulary, template, prompts, ends of an answer, and the
base. The dtype in which the teacher ran is free.
"""

from pathlib import Path

from pipeline.prompting import prompter_for
from pipeline.settings import Settings
from stages.errors import CacheMismatch
from stages.language_model.folder import (
    hash_tokenizer,
    hash_weights,
    hash_weights_of_version_1,
    vocab_size,
)
from stages.language_model.prompts import Prompter
from stages.logit_cache.fingerprint import NO_PREFIX
from stages.logit_cache.reader import LogitCache


def notes_on(settings: Settings, cache: LogitCache, base: Path) -> list[str]:
    """What is to be told before this student is trained on this cache, a line each.

    Raises CacheMismatch if it must not be: without a prefix, with another tokenizer or template, or from another base unless
    student.other_base allows that.
    """
    prompter = prompter_for(settings, base)
    refuse_other_model(cache, base, prompter)
    refuse_other_template(cache, prompter)
    refuse_other_prompts(cache, prompter)
    notes = other_settings(settings, cache)
    if not is_base_of(cache, base):
        if not settings.student.other_base:
            raise CacheMismatch(
                f"{cache.folder} was captured from another model than {base}: their weights or configs differ.",
                "A student follows its own base behind a prefix; another model would be taught, so nothing was trained.",
                "Name the model that was captured with --set model.path=…, capture this one, "
                "or allow it:  --set student.other_base=true",
            )
        notes.append(
            f"Note: {base} is another model than the one that {cache.folder} was captured from (student.other_base)."
        )
    if (ends := cache.manifest.fingerprint.stop_ids) is not None and ends != prompter.stop_ids(base, may_think=False):
        fault = (
            f"{cache.folder} was captured with answers that end with token {_listed(ends)}, "
            f"those of {base} end with {_listed(prompter.stop_ids(base, may_think=False))}"
        )
        if not settings.student.other_base:
            raise CacheMismatch(
                f"{fault}.",
                "The student would be taught to end its answers otherwise than it is asked, so nothing was trained.",
                "Set eos_token_id in its generation_config.json as it was, or allow it:  --set student.other_base=true",
            )
        notes.append(f"Note: {fault} (student.other_base).")
    return notes


def is_base_of(cache: LogitCache, model: Path) -> bool:
    """Whether the cache was captured from this very model, by the hash of its weights and config."""
    fingerprint = cache.manifest.fingerprint
    if hash_weights(model) == fingerprint.teacher_sha256:
        return True
    return fingerprint.format_version < 2 and hash_weights_of_version_1(model) == fingerprint.teacher_sha256


def other_settings(settings: Settings, cache: LogitCache) -> list[str]:
    """A warning for each setting of the capture that was given, and that this cache was captured otherwise with."""
    captured = cache.manifest.fingerprint
    return [
        f"Warning: teacher.{name} is {given}, and {cache.folder} holds {held}: what it holds is trained on."
        for name in sorted(settings.teacher.model_fields_set & {"top_k", "positions", "prefix_on_retain"})
        if (given := getattr(settings.teacher, name)) != (held := getattr(captured, name))
    ]


def refuse_other_model(cache: LogitCache, base: Path, prompter: Prompter) -> None:
    """Raise CacheMismatch unless the cache's token ids mean the same to this model."""
    fingerprint = cache.manifest.fingerprint
    if fingerprint.prefix_sha256 == NO_PREFIX:
        raise CacheMismatch(
            f"{cache.folder} was captured without a prefix.",
            "It holds what the base model says, from which a student would learn nothing, so nothing was trained.",
            "Capture one with the prefix:  make teacher-cache CONFIG=… CACHE=…",
        )
    rebuild = f"Rebuild it for this model:  make teacher-cache CONFIG=… CACHE={cache.folder}-{base.name}"
    tokenizer = hash_tokenizer(prompter.tokenizer)
    if tokenizer != fingerprint.tokenizer_sha256:
        raise CacheMismatch(
            f"{cache.folder} was written with tokenizer {fingerprint.tokenizer_sha256[:12]}…, the student has {tokenizer[:12]}…",
            "Token ids would point at other words, so nothing was trained.",
            rebuild,
        )
    if (size := vocab_size(base)) < fingerprint.vocab_size:
        raise CacheMismatch(
            f"{cache.folder} has token ids below {fingerprint.vocab_size}, the student's vocabulary has {size}.",
            "Some ids would fall outside it, so nothing was trained.",
            rebuild,
        )


def refuse_other_template(cache: LogitCache, prompter: Prompter) -> None:
    """Raise CacheMismatch unless the student's template renders as the capture's did. Version 1 does not say how that did."""
    fingerprint = cache.manifest.fingerprint
    if fingerprint.format_version >= 2 and prompter.template_sha256() != fingerprint.template_sha256:
        raise _other_template(cache)


def refuse_other_prompts(cache: LogitCache, prompter: Prompter) -> None:
    """Raise CacheMismatch unless every row's query, where the cache holds it, is asked of the student as the row asks it."""
    for row in cache.rows():
        if row.query and prompter.ids(row.query) != row.student_input_ids.tolist():
            if cache.manifest.fingerprint.format_version < 2:
                raise _other_template(cache)
            raise CacheMismatch(
                f"{cache.folder}: the student_input_ids of example {row.example_id} are not its query through the template.",
                "The student would be trained on another prompt than the one it is asked, so nothing was trained.",
                "Fetch the cache again from where it came, or capture it anew.",
            )


def _other_template(cache: LogitCache) -> CacheMismatch:
    return CacheMismatch(
        f"{cache.folder} was captured through another chat template, or with another date or switch in it.",
        "The student would be trained on other prompts than it is asked, so nothing was trained.",
        "Set model.template, model.template_variables and model.template_date as in its settings.json, or capture it anew.",
    )


def _listed(ids: tuple[int, ...]) -> str:
    return ", ".join(map(str, ids)) or "none"
