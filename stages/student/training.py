"""Stage two, step five: the training loop.

A model folder and what it is to learn in; trained weights, one line of metrics per step, and checkpoints out. It never loads
a teacher, it never goes on after a loss that is not finite, and a run that was killed goes on as if it had not been.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from stages.errors import Stopped, TrainingError
from stages.student.batches import Inputs
from stages.student.checkpoints import Checkpoint, Checkpoints
from stages.student.engine import StudentEngine, start_process_group
from stages.student.lessons import Lesson
from stages.student.metrics import MetricsLog, StepMetrics, read_metrics
from stages.student.samples import own_micro_batches
from stages.student.settings import RunSettings, TrainingSettings, learning_rate_at
from stages.student.stopping import RisingLoss, StopRequest, has_stalled

# A model that is off by so many logits, or nats, at every candidate is none; no teacher and no base differ by as much.
ABSURD_DISTANCE = 1000.0
# Nor is one that has become so many times as bad as the base, where that is no small matter.
ABSURD_FACTOR, NOTABLE_DISTANCE = 100.0, 10.0
# A last loss so many times the first is no accident of which rows were in the batches.
WORSE_FACTOR = 2.0


class StudentTrainer:
    """One training, in one process per GPU or in one on the CPU. Call `train`, then `consolidated_weights`.

    lesson: what is learnt, a `Distillation` or a `Finetuning`.
    settings: those of a whole run (RunSettings) say when it ends and when it is saved, and make it warn; without, it is
    `total_steps` long, is not saved, and says nothing.
    checkpoints: those of the run, from the newest of which it goes on; None trains without any.
    stop_file: asks for a stop, as SIGTERM does, by being there.
    Raises TrainingError if batch and processes do not fit, ModelError if the model cannot be loaded, OutputExists if
    there is a checkpoint of another run.
    """

    def __init__(
        self,
        model: Path,
        lesson: Lesson[Any],
        settings: TrainingSettings,
        checkpoints: Checkpoints | None = None,
        *,
        stop_file: Path | None = None,
        total_steps: int = 0,
    ) -> None:
        self.settings = settings
        self._lesson = lesson
        start_process_group()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.stream = lesson.stream
        self._run = settings if isinstance(settings, RunSettings) else None
        self.total_steps = total_steps or (self.stream.steps_per_epoch * self._run.epochs if self._run else 0)
        torch.manual_seed(settings.seed)
        self._checkpoints = checkpoints
        self._stop_file = stop_file
        self.resumed_from: Checkpoint | None = checkpoints.newest() if checkpoints else None
        self.engine = StudentEngine(model, settings, self.resumed_from)
        self.pad_id = int(self.module.config.get_text_config().pad_token_id or 0)

    @property
    def first_step(self) -> int:
        """The step at which training begins: 0, or where the newest checkpoint left off."""
        return self.resumed_from.step if self.resumed_from else 0

    def train(
        self,
        run: Path,
        *,
        report: Callable[[StepMetrics], None] = lambda metrics: None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> list[StepMetrics]:
        """Train to the last step, or until the validation loss stalls; returns the metrics of all steps.

        Process 0 writes run/metrics.jsonl and run/tensorboard. Raises TrainingError at the first loss or gradient that
        is not finite, naming the step and the rows; Stopped after SIGTERM, with a checkpoint saved.
        """
        history: list[StepMetrics] = []
        if self.resumed_from:
            history = read_metrics(self.resumed_from.metrics)
            if self.rank == 0:
                shutil.copyfile(self.resumed_from.metrics, run / "metrics.jsonl")
        own = self._run
        rising = RisingLoss(own.warn_rising_steps if own else None)
        saved_at, log = time.monotonic(), None
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequest(self._stop_file).listening())
            if self.rank == 0:
                log = stack.enter_context(MetricsLog(run, self.first_step, own.monitors if own else ()))
            for step in range(self.first_step, self.total_steps):
                if self._has_stalled(history):
                    break
                minutes = (time.monotonic() - saved_at) / 60
                metrics = self._step(step)
                history.append(metrics)
                self._refuse_absurd_loss(metrics, history[0].loss)
                must_stop, save_is_due = self._agree(step, stop, minutes)
                if log:
                    log.write(metrics)
                    report(metrics)
                    if rising.sees(metrics.loss):
                        warn(
                            f"The loss has risen for {rising.steps} steps, to {metrics.loss:.2f}. "
                            f"Most often learning_rate is too high, or warmup_share too short, under [{self.settings.section}]."
                        )
                if self._checkpoints and step + 1 < self.total_steps and (must_stop or save_is_due):
                    self._checkpoints.save(step + 1, run / "metrics.jsonl", self.engine.save)
                    saved_at = time.monotonic()
                if must_stop and step + 1 < self.total_steps:
                    stop.fulfil()
                    raise Stopped(
                        f"Stopped by SIGTERM after step {step + 1} of {self.total_steps}.",
                        f"A checkpoint of it is in {run}." if self._checkpoints else "There is no checkpoint.",
                        "Give the same command again: it goes on from there.",
                    )
        if self.rank == 0 and own and history[-1].loss > WORSE_FACTOR * history[0].loss:
            warn(
                f"Warning: The loss ended at {history[-1].loss:.4g}, and was {history[0].loss:.4g} at the first step: the model "
                f"has not learnt what it was taught. Most often learning_rate is too high under [{self.settings.section}]."
            )
        return history

    def consolidated_weights(self) -> dict[str, torch.Tensor]:
        """Every weight, whole, on the CPU of process 0; elsewhere an empty dict. All processes must call it.

        Under LoRA the adapters' only: the base's files are at hand, and hold what was frozen.
        """
        return self.engine.consolidated_weights()

    def wait_for_all(self) -> None:
        """Return once every process has come here."""
        dist.barrier()

    @property
    def module(self) -> PreTrainedModel:
        """The network inside the engine."""
        return self.engine.network

    def _step(self, step: int) -> StepMetrics:
        began = time.perf_counter()
        rows = self.stream.rows_of(step)
        rate = learning_rate_at(step, self.settings, total_steps=self.total_steps)
        self.engine.set_learning_rate(rate)
        # Sum of losses and count of rows per split, then tokens.
        totals = torch.zeros(5, dtype=torch.float64)
        norm: float | None = None
        for batch in self._micro_batches(rows):
            loss_B = self._losses(batch)
            if not torch.isfinite(loss_B).all():
                self._refuse_loss(step, batch, loss_B)
            # Every micro-batch has as many rows, so DeepSpeed's mean over processes and micro-batches is the mean over
            # the rows of the batch, and the gradient does not depend on how the batch was cut.
            norm = self.engine.backward_and_step(loss_B.mean())
            for place, chosen in ((0, batch.forget_B), (2, ~batch.forget_B)):
                totals[place] += loss_B.detach()[chosen].sum().double().cpu()
                totals[place + 1] += chosen.sum().cpu()
            totals[4] += batch.tokens
        forget_sum, forget_count, retain_sum, retain_count, tokens = self._summed(totals)
        if norm is None or not np.isfinite(norm):
            raise TrainingError(
                f"The gradient norm at step {step} is {norm}, on a batch of {len(rows)} rows: {_few(self._names(rows))}.",
                "The weights may be spoilt from here on, so the run stopped and nothing was exported.",
                f"Lower learning_rate under [{self.settings.section}], or train with dtype = float32.",
            )
        seconds = time.perf_counter() - began
        epoch_is_over = (step + 1) % self.stream.steps_per_epoch == 0
        return StepMetrics(
            step=step,
            epoch=(step + 1) / self.stream.steps_per_epoch,
            loss=(forget_sum + retain_sum) / len(rows),
            loss_forget=forget_sum / forget_count if forget_count else None,
            loss_retain=retain_sum / retain_count if retain_count else None,
            loss_validation=self._validate(step) if epoch_is_over and len(self.stream.validation_rows) else None,
            grad_norm=norm,
            learning_rate=rate,
            tokens_per_s=tokens / seconds,
            step_s=seconds,
        )

    def _agree(self, step: int, stop: StopRequest, minutes: float) -> tuple[bool, bool]:
        """Whether to stop and whether to save after this step: one answer for all processes, by process 0's clock."""
        every, most = (self._run.checkpoint_steps, self._run.checkpoint_minutes) if self._run else (None, None)
        is_due = (every is not None and (step + 1) % every == 0) or (most is not None and minutes >= most)
        votes = torch.tensor([stop.received, is_due and self.rank == 0], dtype=torch.float64)
        stops, saves = self._summed(votes)
        return stops > 0, saves > 0

    def _losses(self, batch: Inputs) -> torch.Tensor:
        return self._lesson.losses(self.engine, batch)

    def _validate(self, step: int) -> float:
        """Mean loss over the held-out rows. Each process makes as many passes, as ZeRO-3 needs."""
        rows, size = self.stream.validation_rows, self.settings.micro_batch(self.world)
        totals = torch.zeros(2, dtype=torch.float64)
        for turn in range(math.ceil(len(rows) / (size * self.world))):
            start = (turn * self.world + self.rank) * size
            own = rows[start : start + size]
            # Every batch has as many rows, since a network that takes no padding makes a pass for each.
            filled = np.resize(own if len(own) else rows[:1], size)
            with torch.no_grad():
                loss_B = self._losses(self._batch(filled))[: len(own)]
            totals += torch.tensor([loss_B.sum().item(), len(own)], dtype=torch.float64)
        loss_sum, count = self._summed(totals)
        if not np.isfinite(loss_sum):
            raise TrainingError(
                f"The validation loss after step {step} is {loss_sum}, over {len(rows)} held-out rows.",
                "The weights are spoilt, so the run stopped and nothing was exported.",
                f"Lower learning_rate under [{self.settings.section}], or train with dtype = float32.",
            )
        return loss_sum / count

    def _has_stalled(self, history: Sequence[StepMetrics]) -> bool:
        losses = [step.loss_validation for step in history if step.loss_validation is not None]
        return has_stalled(losses, self._run.patience_epochs if self._run else None)

    def _summed(self, totals: torch.Tensor) -> list[float]:
        """The totals of all processes."""
        moved = totals.to(self.engine.device)
        dist.all_reduce(moved)
        values: list[float] = moved.tolist()
        return values

    def _micro_batches(self, rows: np.ndarray) -> Iterator[Inputs]:
        """This process's part of the global batch, cut into micro-batches."""
        size = self.settings.micro_batch(self.world)
        tokens = self._lesson.tokens
        for own in own_micro_batches(rows, tokens, rank=self.rank, world=self.world, micro_rows=size):
            yield self._batch(own)

    def _batch(self, rows: np.ndarray) -> Inputs:
        batch: Inputs = self._lesson.batch(rows, pad_id=self.pad_id, share_from=self.engine.share_from)
        return batch.to(self.engine.device)

    def _refuse_absurd_loss(self, metrics: StepMetrics, first_loss: float) -> None:
        """Raise TrainingError for a loss that is a number and yet says that the model is none any more.

        All processes have the same mean over the whole batch, and so stop together.
        """
        loss, at = metrics.loss, self._lesson.loss_at
        if loss <= at(NOTABLE_DISTANCE) or (loss <= at(ABSURD_DISTANCE) and loss <= ABSURD_FACTOR * first_loss):
            return
        raise TrainingError(
            f"The loss at step {metrics.step} is {loss:.4g}, and was {first_loss:.4g} at the first step, "
            f"on a batch of {self.stream.batch_rows} rows: {_few(self._names(self.stream.rows_of(metrics.step)))}.",
            "A model with such a loss says nothing of use, so the run stopped and nothing was exported.",
            f"Lower learning_rate or raise warmup_share under [{self.settings.section}]; "
            "if it was so from the first step, look at what is taught.",
        )

    def _names(self, rows: np.ndarray) -> tuple[str, ...]:
        batch: Inputs = self._lesson.batch(rows, pad_id=self.pad_id)
        return batch.example_ids

    def _refuse_loss(self, step: int, batch: Inputs, loss_B: torch.Tensor) -> None:
        bad = (~torch.isfinite(loss_B)).tolist()
        names = [name for name, is_bad in zip(batch.example_ids, bad, strict=True) if is_bad]
        raise TrainingError(
            f"The loss is not finite at step {step}, on example {names[0]} ({len(names)} rows of its micro-batch).",
            "The weights before this step were still finite; nothing was exported.",
            f"Lower learning_rate or raise warmup_share under [{self.settings.section}], or train with dtype = float32.",
        )


def _few(names: Sequence[str]) -> str:
    """The first names, and how many follow."""
    return ", ".join(name[:80] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
