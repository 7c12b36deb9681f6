"""One training run from plan to exported model, whatever is learnt: by `duet distill` and `duet finetune`.

In one process per GPU, which it starts by itself; under a launcher it joins the launcher's.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.console import progress, say
from pipeline.run_folder import RunFolder
from stages.errors import Stopped, TrainingError
from stages.files import sha256_file
from stages.language_model.folder import hash_weights, load_tokenizer
from stages.student.launch import is_launched, launch, leads_by_environment, process_count
from stages.student.settings import RunSettings

if TYPE_CHECKING:
    from stages.student.lessons import Lesson


@dataclass(frozen=True)
class Training:
    """What is to be trained.

    base: the model folder that it begins with; base_name: as the user named it. lesson: made in the process that trains.
    card: the model's README.md. facts: what else run.json is to say. next_step: shown when it is done.
    """

    folder: RunFolder
    base: Path
    base_name: str
    settings: RunSettings
    lesson: "Callable[[], Lesson[Any]]"
    card: str
    facts: dict[str, Any]
    next_step: str


def carry_out(training: Training) -> None:
    """Train, unless it is done already. Raises OutputExists, TrainingError, and Stopped after SIGTERM."""
    folder, settings = training.folder, training.settings
    if folder.is_finished():
        folder.tidy()
        say(f"{folder.path} is finished already: nothing to do.")
        return
    from stages.student.export import check_export
    from stages.student.metrics import refuse_missing_monitors

    refuse_missing_monitors(settings.monitors, settings.section)
    processes = process_count(settings.processes)
    settings.micro_batch(processes)
    # All processes of a launcher come here, and so fail together.
    check_export(training.base, folder.path, dtype=settings.dtype)
    if processes == 1 or is_launched():
        train_and_export(training)
        return
    # What cannot be learnt is said once, and not by every process.
    training.lesson()
    folder.begin()
    code = launch(sys.argv[1:], processes, stop_file=folder.stop_file)
    if code == Stopped.exit_code:
        raise Stopped(
            f"The training in {folder.path} was stopped and saved.", "", "Give the same command again: it goes on."
        )
    if code:
        raise TrainingError(
            f"A training process ended with code {code}.", "Its own message stands above; nothing was exported."
        )


def train_and_export(training: Training) -> None:
    """Train in this process (and its siblings), then let process 0 write RUN/model and, last, RUN/run.json."""
    from stages.language_model.hardware import describe_hardware
    from stages.student.checkpoints import Checkpoints
    from stages.student.metrics import StepMetrics
    from stages.student.training import StudentTrainer

    folder, settings = training.folder, training.settings
    lock = folder.hold_alone() if leads_by_environment() else None
    checkpoints = Checkpoints(folder.path, folder.identity, keep=settings.keep_checkpoints)
    trainer = StudentTrainer(training.base, training.lesson(), settings, checkpoints, stop_file=folder.stop_file)
    leads = trainer.rank == 0
    if leads:
        folder.begin()
        folder.clear()
    trainer.wait_for_all()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    if leads and trainer.first_step:
        say(f"{folder.path}: going on after step {trainer.first_step} of {trainer.total_steps}.")
    with progress("Student (DeepSpeed)", trainer.total_steps - trainer.first_step, "steps") as advance:

        def report(metrics: StepMetrics) -> None:
            parts = {"forget": metrics.loss_forget, "retain": metrics.loss_retain}
            losses = "  ".join(f"{split} {loss:.2f}" for split, loss in parts.items() if loss is not None)
            advance(1, f"loss {losses}  {metrics.tokens_per_s:.0f} tokens/s")

        history = trainer.train(folder.path, report=report, warn=say)
    if leads and len(history) < trainer.total_steps:
        say(f"The validation loss stalled: stopped after step {len(history)} of {trainer.total_steps}.")
    weights = trainer.consolidated_weights()
    if leads:
        _export(training, trainer.module, weights)
        folder.finish(
            {
                **training.facts,
                "model_sha256": hash_weights(folder.model),
                "metrics_sha256": sha256_file(folder.path / "metrics.jsonl"),
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
        )
        checkpoints.remove()
        say(f"{folder.model} is ready.  Next:  {training.next_step}")
    trainer.wait_for_all()
    if lock:
        lock.release()


def _export(training: Training, network: Any, weights: dict[str, Any]) -> None:
    """Write RUN/model; under LoRA first RUN/adapter, and then the base with it merged in."""
    from stages.student.export import export_model

    run, settings = training.folder.path, training.settings
    if settings.method == "lora":
        from stages.student.lora import export_adapter, merge_adapter

        export_adapter(network, weights, run / "adapter", base=training.base_name, card=training.card)
        network = merge_adapter(training.base, run / "adapter", dtype=settings.dtype)
        weights = network.state_dict()
    tokenizer = load_tokenizer(training.base)
    export_model(network, weights, tokenizer, training.base, training.folder.model, training.card)
