"""`duet distill`: stage two. A frozen cache and the base model become a model that has forgotten."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.cache_match import is_base_of, notes_on
from pipeline.console import quieten_libraries, say
from pipeline.options import settings_options
from pipeline.prompting import prompter_for
from pipeline.responses import left_out
from pipeline.run_folder import RunFolder
from pipeline.settings import Settings, load_settings
from pipeline.training import Training, carry_out
from pipeline.trust import refuse_untrusted
from stages.language_model.folder import context_length, hash_weights, resolve_model
from stages.logit_cache.fingerprint import sha256_json
from stages.logit_cache.reader import LogitCache
from stages.student.launch import leads_by_environment

if TYPE_CHECKING:
    from stages.student.distillation import Distillation


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
    base = resolve_model(settings.model.path)
    for note in notes_on(settings, opened, base):
        say(note)
    carry_out(planned(settings, opened, base, run))


def planned(settings: Settings, cache: LogitCache, base: Path, run: Path) -> Training:
    """The training of these settings on this cache."""
    from stages.student.card import unlearned_card

    prompter = prompter_for(settings, base)
    fewer = left_out(cache, prompter.tokenizer, settings.student.response_filter)
    told = fewer.lines() if fewer else []
    if leads_by_environment():
        for line in told:
            say(f"{line}.")

    def lesson() -> "Distillation":
        from stages.student.distillation import Distillation

        return Distillation(
            cache, settings.student, context_length=context_length(base), left_out=fewer.rows if fewer else None
        )

    fingerprint, same_base = cache.manifest.fingerprint, is_base_of(cache, base)
    identity = {
        "cache_id": cache.manifest.cache_id,
        "base_sha256": hash_weights(base),
        "student_sha256": sha256_json(settings.student.determining()),
    }
    if fewer:
        # Another version may tell refusals otherwise; a run that goes on must go on with the same rows.
        identity["left_out_sha256"] = sha256_json(fewer.rows.nonzero()[0].tolist())
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
            other_teacher=None if same_base else fingerprint.teacher_sha256,
            left_out=told,
        ),
        facts={
            "cache": str(cache.folder),
            "template_sha256": prompter.template_sha256(),
            "prefix_sha256": fingerprint.prefix_sha256,
            "teacher_sha256": fingerprint.teacher_sha256,
            "other_base": not same_base,
            "left_out": {split: count for split, (count, _) in fewer.counts.items()} if fewer else {},
        },
        next_step=f"duet evaluate --config … --model {quote(f'{run}/model')} --out {quote(f'{run}/evaluation.json')}",
    )
