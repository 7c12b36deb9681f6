"""`duet distill`: stage two. A frozen cache and the base model become a model that has forgotten."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout

from pipeline import __version__
from pipeline.console import progress, quieten_libraries, say
from pipeline.options import settings_options
from pipeline.settings import Settings, load_settings
from stages.errors import CacheMismatch, OutputExists, Stopped, TrainingError
from stages.files import sha256_file, write_json
from stages.language_model.folder import hash_tokenizer, hash_weights, load_tokenizer, resolve_model, vocab_size
from stages.logit_cache.fingerprint import NO_PREFIX, sha256_json
from stages.logit_cache.reader import LogitCache
from stages.student.launch import is_launched, launch, leads_by_environment, process_count
from stages.student.settings import NOT_DETERMINING

PLAN = "plan.json"
FINISHED = "run.json"
# What determines the trained weights.
DETERMINING = ("cache_id", "base_sha256", "student_sha256")
# Laid into the run by the process that was told to stop, for those that train.
STOP = "stop"
LOCK = ".lock"


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
    opened.check_every_row()
    base = resolve_model(settings.model.path)
    refuse_other_model(opened, base)
    plan = plan_of(settings, opened, base)
    if is_finished(run, plan):
        say(f"{run} is finished already: nothing to do.")
        return
    from stages.student.metrics import refuse_missing_monitors

    refuse_missing_monitors(settings.student.monitors)
    processes = process_count(settings.student.processes)
    settings.student.micro_batch(processes)
    if processes > 1 and not is_launched():
        begin(run, plan)
        code = launch(sys.argv[1:], processes, stop_file=run / STOP)
        if code == Stopped.exit_code:
            raise Stopped(
                f"The training in {run} was stopped and saved.", "", "Give the same command again: it goes on."
            )
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
    from stages.student.checkpoints import Checkpoints
    from stages.student.export import export_model
    from stages.student.metrics import StepMetrics
    from stages.student.training import StudentTrainer

    lock = hold_alone(run) if leads_by_environment() else None
    identity = {key: plan[key] for key in DETERMINING}
    checkpoints = Checkpoints(run, identity, keep=settings.student.keep_checkpoints)
    trainer = StudentTrainer(base, cache, settings.student, checkpoints, stop_file=run / STOP)
    leads = trainer.rank == 0
    if leads:
        begin(run, plan)
    trainer.wait_for_all()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    if leads and trainer.first_step:
        say(f"{run}: going on after step {trainer.first_step} of {trainer.total_steps}.")
    with progress("Student (DeepSpeed)", trainer.total_steps - trainer.first_step, "steps") as advance:

        def report(metrics: StepMetrics) -> None:
            losses = f"forget {metrics.loss_forget:.2f}  retain {metrics.loss_retain:.2f}"
            advance(1, f"loss {losses}  {metrics.tokens_per_s:.0f} tokens/s")

        history = trainer.train(run, report=report, warn=say)
    if leads and len(history) < trainer.total_steps:
        say(f"The validation loss stalled: stopped after step {len(history)} of {trainer.total_steps}.")
    weights = trainer.consolidated_weights()
    if leads:
        card = model_card(
            base=settings.model.path,
            cache_id=cache.manifest.cache_id,
            student_settings=settings.student.model_dump(),
            duet_version=__version__,
            method=settings.student.method_in_words,
        )
        network = trainer.module
        if settings.student.method == "lora":
            from stages.student.lora import export_adapter, merge_adapter

            export_adapter(network, weights, run / "adapter", base=settings.model.path, card=card)
            network = merge_adapter(base, run / "adapter", dtype=settings.student.dtype)
            weights = network.state_dict()
        export_model(network, weights, load_tokenizer(base), base, run / "model", card)
        record = {
            **plan,
            "cache": str(cache.folder),
            "model_sha256": hash_weights(run / "model"),
            "metrics_sha256": sha256_file(run / "metrics.jsonl"),
            "steps": len(history),
            "steps_planned": trainer.total_steps,
            "resumed_at": trainer.first_step or None,
            "seconds": round(sum(step.step_s for step in history), 1),
            "last_step": asdict(history[-1]),
            "processes": trainer.world,
            "hardware": describe_hardware(),
            "started_at": started_at,
            "duet_version": __version__,
        }
        write_json(run / FINISHED, record)
        checkpoints.remove()
        say(f"{run}/model is ready.  Next:  duet evaluate --config … --model {run}/model --out {run}/evaluation.json")
    trainer.wait_for_all()
    if lock:
        lock.release()


def hold_alone(run: Path) -> FileLock:
    """Keep every other process from training in this folder, as long as this one lives. Raises TrainingError."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(
            f"{run} is being trained by another process.",
            "Two would overwrite each other's checkpoints, so this one stopped.",
            "Wait for the other or end it, or name another folder with --out (make: RUN=…).",
        ) from None
    return lock


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
        "student_sha256": sha256_json(settings.student.determining()),
        "settings": settings.model_dump(mode="json"),
    }


def is_finished(run: Path, plan: dict[str, Any]) -> bool:
    """Whether RUN holds this very run, whole. Raises OutputExists if it holds another, or anything else."""
    for name in (FINISHED, PLAN):
        if not (run / name).is_file():
            continue
        found = json.loads((run / name).read_bytes())
        if differing := differences(found, plan):
            raise OutputExists(
                f"{run} holds another run:\n    " + "\n    ".join(differing),
                "It was left as it is.",
                "Name another folder with --out (make: RUN=…), or move that one away.",
            )
        if name == FINISHED:
            model = run / "model"
            return model.is_dir() and hash_weights(model) == found["model_sha256"]
        return False
    if run.exists() and (not run.is_dir() or {entry.name for entry in run.iterdir()} - {LOCK}):
        raise OutputExists(
            f"{run} already holds something that is not a run.",
            "Nothing was written there.",
            "Name another folder with --out (make: RUN=…), or move that one away.",
        )
    return False


def differences(found: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """One line for each thing that determines the weights and differs: `name: there → here`."""
    lines = [
        f"{key}: {str(found.get(key))[:12]}… → {plan[key][:12]}…"
        for key in ("cache_id", "base_sha256")
        if found.get(key) != plan[key]
    ]
    if found.get("student_sha256") != plan["student_sha256"]:
        before, now = found.get("settings", {}).get("student", {}), plan["settings"]["student"]
        changed = [key for key in now if before.get(key) != now[key] and key not in NOT_DETERMINING]
        lines += [f"student.{key}: {before.get(key)} → {now[key]}" for key in changed] or ["settings of the student"]
    return lines


def begin(run: Path, plan: dict[str, Any]) -> None:
    """Claim the folder for this run. What an unfinished attempt at the same run left is written anew."""
    run.mkdir(parents=True, exist_ok=True)
    (run / FINISHED).unlink(missing_ok=True)
    if not is_launched():  # else the process that launched this one may have laid it down by now
        (run / STOP).unlink(missing_ok=True)
    write_json(run / PLAN, plan)
