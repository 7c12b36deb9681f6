"""What a training step measured, written down where people look: a file of lines, TensorBoard, and monitors they chose.

Steps in, lines out; and back in, so that a run that goes on knows what it had written.
"""

import importlib.util
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from stages.errors import TrainingError


@dataclass(frozen=True)
class StepMetrics:
    """One optimiser step. Losses are means over the rows of all processes; grad_norm is before clipping.

    loss_validation: over the held-out rows, at the end of an epoch; else None.
    """

    step: int
    epoch: float
    loss: float
    loss_forget: float | None
    loss_retain: float | None
    loss_validation: float | None
    grad_norm: float
    learning_rate: float
    tokens_per_s: float
    step_s: float


class MetricsLog:
    """Writes each step to RUN/metrics.jsonl, RUN/tensorboard and the monitors. One process has one; use it in a `with`.

    first_step: steps before it are kept, what a killed run wrote after it is dropped.
    """

    def __init__(self, run: Path, first_step: int, monitors: Sequence[str] = ()) -> None:
        self.path = run / "metrics.jsonl"
        self._run, self._first_step = run, first_step
        self._monitors = monitors
        self._stack = ExitStack()

    def __enter__(self) -> "MetricsLog":
        self._lines = self._stack.enter_context(open(self.path, "a" if self._first_step else "w", encoding="utf-8"))
        self._board = self._stack.enter_context(
            SummaryWriter(str(self._run / "tensorboard"), purge_step=self._first_step)
        )
        self._sinks = [_MONITORS[name](self._run, self._stack) for name in self._monitors]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        except OSError as fault:
            if error is None:  # else the run ends with that one, of which this is a part
                raise self._unwritten(fault) from fault

    def write(self, metrics: StepMetrics) -> None:
        """Write one step everywhere, whole lines only. Raises TrainingError where the disk takes no more."""
        values = {name: value for name, value in asdict(metrics).items() if name != "step" and value is not None}
        try:
            self._lines.write(json.dumps(asdict(metrics)) + "\n")
            self._lines.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, metrics.step)
        except OSError as fault:
            raise self._unwritten(fault) from fault
        for sink in self._sinks:
            sink(values, metrics.step)

    def _unwritten(self, fault: OSError) -> TrainingError:
        return TrainingError(
            f"The metrics of {self._run} cannot be written ({fault.strerror or fault}).",
            "Checkpoints that were saved before stay as they are.",
            "Make room, then give the same command again: it goes on from the newest whole checkpoint.",
        )


def read_metrics(path: Path) -> list[StepMetrics]:
    """The steps in a metrics.jsonl."""
    return [StepMetrics(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def refuse_missing_monitors(monitors: Sequence[str], section: str) -> None:
    """Raise TrainingError if a chosen monitor is not installed."""
    for name in monitors:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(
                f"The setting {section}.monitors names {name}, which is not installed.",
                "Nothing was trained without the monitor that you asked for.",
                f"Install it into the environment:  .venv/bin/pip install {name}        or leave it out",
            )


def _wandb(run: Path, stack: ExitStack) -> Any:
    import wandb

    # The same run goes on under the same id after a kill. Project and mode come from WANDB_PROJECT and WANDB_MODE.
    logged = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "duet"), name=run.name, id=run.name, resume="allow", dir=run
    )
    stack.callback(logged.finish)
    return lambda values, step: logged.log(values, step=step)


def _mlflow(run: Path, stack: ExitStack) -> Any:
    import mlflow

    # Where to comes from MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME. A run that goes on after a kill is the same there.
    known = run / "mlflow.run_id"
    run_id = known.read_text() if known.exists() else None
    begun = stack.enter_context(mlflow.start_run(run_id=run_id, run_name=run.name))
    known.write_text(begun.info.run_id)
    return lambda values, step: mlflow.log_metrics(values, step=step)


_MONITORS = {"wandb": _wandb, "mlflow": _mlflow}
