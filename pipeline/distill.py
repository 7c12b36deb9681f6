"""`duet distill`: stage two. A frozen cache and the base model become a model that has forgotten."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.console import quieten_libraries, say
from pipeline.options import settings_options
from pipeline.prompting import prompter_for
from pipeline.run_folder import RunFolder
from pipeline.settings import Settings, load_settings
from pipeline.training import Training, carry_out
from pipeline.trust import refuse_untrusted
from stages.errors import CacheMismatch
from stages.language_model.folder import hash_tokenizer, hash_weights, load_tokenizer, resolve_model, vocab_size
from stages.language_model.prompts import Prompter
from stages.logit_cache.fingerprint import NO_PREFIX, sha256_json
from stages.logit_cache.reader import LogitCache

if TYPE_CHECKING:
    from stages.student.distillation import Distillation

# Rows of an old cache that are asked again.
COMPARED_ROWS = 16


@click.command()
@settings_options
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="A finished logit cache.")
@click.option("--out", "run", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
def distill(config: str, overrides: tuple[str, ...], cache: Path, run: Path) -> None:
    """Train the student on a frozen cache, and export it as a Hugging Face model.

    Starts one process per GPU by itself; under deepspeed or torchrun it joins the launcher's processes. After a kill, the
    same command goes on from the newest whole checkpoint. SIGTERM saves one and ends with code 75.

    \b
    Examples:
      duet distill --config capitals --cache cache/capitals --out runs/capitals
      deepspeed --no_local_rank --module pipeline distill --config capitals --cache … --out …
    """
    settings = load_settings(config, overrides)
    quieten_libraries()
    opened = LogitCache(cache)
    refuse_untrusted(settings, opened)
    opened.check_every_row()
    for warning in other_settings(settings, opened):
        say(warning)
    base = resolve_model(settings.model.path)
    refuse_other_model(opened, base)
    refuse_other_template(opened, prompter_for(settings, base))
    carry_out(planned(settings, opened, base, run))


def other_settings(settings: Settings, cache: LogitCache) -> list[str]:
    """A warning for each setting of the capture that was given, and that this cache was captured otherwise with."""
    captured = cache.manifest.fingerprint
    return [
        f"Warning: teacher.{name} is {given}, and {cache.folder} holds {held}: what it holds is trained on."
        for name in sorted(settings.teacher.model_fields_set & {"top_k", "positions", "prefix_on_retain"})
        if (given := getattr(settings.teacher, name)) != (held := getattr(captured, name))
    ]


def planned(settings: Settings, cache: LogitCache, base: Path, run: Path) -> Training:
    """The training of these settings on this cache."""
    from stages.student.card import unlearned_card

    def lesson() -> "Distillation":
        from stages.student.distillation import Distillation

        return Distillation(cache, settings.student)

    identity = {
        "cache_id": cache.manifest.cache_id,
        "base_sha256": hash_weights(base),
        "student_sha256": sha256_json(settings.student.determining()),
    }
    return Training(
        folder=RunFolder(run, "student", identity, settings.model_dump(mode="json")),
        base=base,
        base_name=settings.model.path,
        settings=settings.student,
        lesson=lesson,
        card=unlearned_card(
            base=settings.model.path,
            cache_id=cache.manifest.cache_id,
            settings=settings.student,
            duet_version=__version__,
        ),
        facts={"cache": str(cache.folder), "template_sha256": prompter_for(settings, base).template_sha256()},
        next_step=f"duet evaluate --config … --model {quote(f'{run}/model')} --out {quote(f'{run}/evaluation.json')}",
    )


def refuse_other_model(cache: LogitCache, base: Path) -> None:
    """Raise CacheMismatch unless the cache's token ids mean the same to this model."""
    fingerprint = cache.manifest.fingerprint
    if fingerprint.prefix_sha256 == NO_PREFIX:
        raise CacheMismatch(
            f"{cache.folder} was captured without a prefix.",
            "It holds what the base model says, from which a student would learn nothing, so nothing was trained.",
            "Capture one with the prefix:  make teacher-cache CONFIG=… CACHE=…",
        )
    rebuild = f"Rebuild it for this model:  make teacher-cache CONFIG=… CACHE={cache.folder}-{base.name}"
    tokenizer = hash_tokenizer(load_tokenizer(base))
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
    """Raise CacheMismatch unless the student would be asked, under these settings, as the cache's rows ask it.

    A cache of version 1 does not say what its template rendered: there the queries of its first rows are asked again.
    """
    fingerprint = cache.manifest.fingerprint
    if fingerprint.format_version >= 2:
        alike = prompter.template_sha256() == fingerprint.template_sha256
    else:
        first = [cache.row(index) for index in range(min(COMPARED_ROWS, len(cache)))]
        alike = all(prompter.ids(row.query) == row.student_input_ids.tolist() for row in first if row.query)
    if not alike:
        raise CacheMismatch(
            f"{cache.folder} was captured through another chat template, or with another date or switch in it.",
            "The student would be trained on other prompts than it is asked, so nothing was trained.",
            "Set model.template, model.template_variables and model.template_date as in its settings.json, or capture it anew.",
        )
