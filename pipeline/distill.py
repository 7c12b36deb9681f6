"""`duet distill`: stage two. A frozen cache and the base model become a model that has forgotten."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pipeline import __version__
from pipeline.console import progress, quieten_libraries, say
from pipeline.options import settings_options
from pipeline.settings import Settings, load_settings
from stages.errors import CacheMismatch, OutputExists, TrainingError
from stages.files import sha256_file, write_json
from stages.language_model.folder import hash_tokenizer, hash_weights, load_tokenizer, resolve_model, vocab_size
from stages.logit_cache.fingerprint import NO_PREFIX, sha256_json
from stages.logit_cache.reader import LogitCache
from stages.student.launch import is_launched, launch, process_count

PLAN = "plan.json"
FINISHED = "run.json"


@click.command()
@settings_options
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="A finished logit cache.")
@click.option("--out", "run", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
def distill(config: str, overrides: tuple[str, ...], cache: Path, run: Path) -> None:
    """Train the student on a frozen cache, and export it as a Hugging Face model.

    Starts one process per GPU by itself; under deepspeed or torchrun it joins the launcher's processes.

    \b
    Examples:
      duet distill --config capitals --cache cache/capitals --out runs/capitals
      deepspeed --no_local_rank --module pipeline distill --config capitals --cache … --out …
    """
    settings = load_settings(config, overrides)
    quieten_libraries()
    opened = LogitCache(cache)
    opened.check_every_row()
    base = resolve_model(settings.model.path)
    refuse_other_model(opened, base)
    plan = plan_of(settings, opened, base)
    if is_finished(run, plan):
        say(f"{run} is finished already: nothing to do.")
        return
    processes = process_count(settings.student.processes)
    settings.student.micro_batch(processes)
    if processes > 1 and not is_launched():
        begin(run, plan)
        code = launch(sys.argv[1:], processes)
        if code:
            raise TrainingError(
                f"A training process ended with code {code}.", "Its own message stands above; nothing was exported."
            )
        return
    train_and_export(settings, opened, base, run, plan)


def train_and_export(settings: Settings, cache: LogitCache, base: Path, run: Path, plan: dict[str, Any]) -> None:
    """Train in this process (and its siblings), then let process 0 write RUN/model and, last, RUN/run.json."""
    from stages.language_model.hardware import describe_hardware
    from stages.student.card import model_card
    from stages.student.export import export_model
    from stages.student.training import StepMetrics, StudentTrainer

    trainer = StudentTrainer(base, cache, settings.student)
    leads = trainer.rank == 0
    if leads:
        begin(run, plan)
    trainer.wait_for_all()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with progress("Student (DeepSpeed)", trainer.total_steps, "steps") as advance:

        def report(metrics: StepMetrics) -> None:
            losses = f"forget {metrics.loss_forget:.2f}  retain {metrics.loss_retain:.2f}"
            advance(1, f"loss {losses}  {metrics.tokens_per_s:.0f} tokens/s")

        history = trainer.train(run, report=report)
    weights = trainer.consolidated_weights()
    if leads:
        card = model_card(
            base=settings.model.path,
            cache_id=cache.manifest.cache_id,
            student_settings=settings.student.model_dump(),
            duet_version=__version__,
        )
        export_model(trainer.module, weights, load_tokenizer(base), base, run / "model", card)
        record = {
            **plan,
            "cache": str(cache.folder),
            "model_sha256": hash_weights(run / "model"),
            "metrics_sha256": sha256_file(run / "metrics.jsonl"),
            "steps": len(history),
            "seconds": round(sum(step.step_s for step in history), 1),
            "last_step": asdict(history[-1]),
            "processes": trainer.world,
            "hardware": describe_hardware(),
            "started_at": started_at,
            "duet_version": __version__,
        }
        write_json(run / FINISHED, record)
        say(f"{run}/model is ready.  Next:  duet evaluate --config … --model {run}/model --out {run}/evaluation.json")
    trainer.wait_for_all()


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


def plan_of(settings: Settings, cache: LogitCache, base: Path) -> dict[str, Any]:
    """What determines the trained weights, and the settings as they were resolved."""
    return {
        "cache_id": cache.manifest.cache_id,
        "base_sha256": hash_weights(base),
        "student_sha256": sha256_json(settings.student.model_dump(mode="json")),
        "settings": settings.model_dump(mode="json"),
    }


def is_finished(run: Path, plan: dict[str, Any]) -> bool:
    """Whether RUN holds this very run, whole. Raises OutputExists if it holds another, or anything else."""
    determining = ("cache_id", "base_sha256", "student_sha256")
    for name in (FINISHED, PLAN):
        if not (run / name).is_file():
            continue
        found = json.loads((run / name).read_bytes())
        if differing := [key for key in determining if found.get(key) != plan[key]]:
            raise OutputExists(
                f"{run} holds another run: {', '.join(differing)} differ.",
                "It was left as it is.",
                "Name another folder with --out (make: RUN=…), or move that one away.",
            )
        if name == FINISHED:
            model = run / "model"
            return model.is_dir() and hash_weights(model) == found["model_sha256"]
        return False
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise OutputExists(
            f"{run} already holds something that is not a run.",
            "Nothing was written there.",
            "Name another folder with --out (make: RUN=…), or move that one away.",
        )
    return False


def begin(run: Path, plan: dict[str, Any]) -> None:
    """Claim the folder for this run. What an unfinished attempt at the same run left is written anew."""
    run.mkdir(parents=True, exist_ok=True)
    (run / FINISHED).unlink(missing_ok=True)
    write_json(run / PLAN, plan)
