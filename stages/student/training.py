"""Stage two, step four: the DeepSpeed loop. The only module that imports DeepSpeed.

A frozen cache and a model folder in; trained weights, one line of metrics per step, and the loss curve out. It never
loads a teacher, and it never goes on after a loss that is not finite.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
import transformers
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from stages.errors import ModelError, TrainingError
from stages.language_model.folder import attention_of
from stages.language_model.hardware import core_count, cuda_is_available
from stages.logit_cache.reader import LogitCache
from stages.student.batches import Batch, collate
from stages.student.objective import student_logits, topk_huber
from stages.student.samples import SampleStream
from stages.student.settings import StudentSettings, deepspeed_config, learning_rate_at


@dataclass(frozen=True)
class StepMetrics:
    """One optimiser step. Losses are means over the rows of all processes; grad_norm is before clipping."""

    step: int
    epoch: float
    loss: float
    loss_forget: float | None
    loss_retain: float | None
    grad_norm: float
    learning_rate: float
    tokens_per_s: float
    step_s: float


class StudentTrainer:
    """One distillation, in one process per GPU or in one on the CPU. Call `train`, then `consolidated_weights`.

    Raises TrainingError if batch and processes do not fit, ModelError if the model cannot be loaded.
    """

    def __init__(self, model: Path, cache: LogitCache, settings: StudentSettings) -> None:
        self.settings = settings
        self.cache = cache
        start_process_group()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        forget, _ = cache.outline()
        self._kept_positions = {"forget": settings.forget_positions, "retain": settings.retain_positions}
        self.stream = SampleStream(
            forget, batch_rows=settings.batch_rows, seed=settings.seed, forget_share=settings.forget_share
        )
        self.total_steps = self.stream.steps_per_epoch * settings.epochs
        torch.manual_seed(settings.seed)
        config = deepspeed_config(settings, world=self.world)
        check_config(config)
        # Alive while the model loads: under ZeRO-3 each process then keeps only its part of every weight.
        zero3 = HfDeepSpeedConfig(config) if settings.zero_stage == 3 else None
        network = _load(model, settings)
        del zero3
        self.pad_id = int(network.config.get_text_config().pad_token_id or 0)
        self.engine, _, _, _ = deepspeed.initialize(
            model=network, model_parameters=[p for p in network.parameters() if p.requires_grad], config=config
        )
        self.engine.train()

    def train(self, run: Path, *, report: Callable[[StepMetrics], None] = lambda metrics: None) -> list[StepMetrics]:
        """Train to the last step. Process 0 writes run/metrics.jsonl and run/tensorboard.

        Raises TrainingError at the first loss or gradient that is not finite, naming the step and the rows.
        """
        history: list[StepMetrics] = []
        with ExitStack() as files:
            if self.rank == 0:
                lines = files.enter_context(open(run / "metrics.jsonl", "w", encoding="utf-8"))
                board = files.enter_context(SummaryWriter(str(run / "tensorboard")))
            for step in range(self.total_steps):
                metrics = self._step(step)
                history.append(metrics)
                if self.rank == 0:
                    lines.write(json.dumps(asdict(metrics)) + "\n")
                    lines.flush()
                    for name, value in asdict(metrics).items():
                        if name != "step" and value is not None:
                            board.add_scalar(name, value, metrics.step)
                    report(metrics)
        return history

    def consolidated_weights(self) -> dict[str, torch.Tensor]:
        """Every weight, whole, on the CPU of process 0; elsewhere an empty dict. All processes must call it.

        Under LoRA the adapters' only: the base's files are at hand, and hold what was frozen.
        """
        weights: dict[str, torch.Tensor] = {}
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            # One at a time: under ZeRO-3 a weight is whole only inside this block.
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.settings.zero_stage == 3):
                if self.rank == 0:
                    weights[name] = parameter.detach().to("cpu", copy=True)
        if self.rank == 0 and self.settings.method == "full":
            weights.update(
                {
                    name: value.detach().to("cpu", copy=True)
                    for name, value in self.module.named_buffers()
                    if name in self.module.state_dict()
                }
            )
        return weights

    def wait_for_all(self) -> None:
        """Return once every process has come here."""
        dist.barrier()

    @property
    def module(self) -> PreTrainedModel:
        """The network inside the engine."""
        module: PreTrainedModel = self.engine.module
        return module

    def _step(self, step: int) -> StepMetrics:
        began = time.perf_counter()
        rows = self.stream.rows_of(step)
        rate = learning_rate_at(step, self.settings, total_steps=self.total_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        # Sum of losses and count of rows per split, then tokens.
        totals = torch.zeros(5, dtype=torch.float64)
        for batch in self._micro_batches(rows):
            student_BTK = student_logits(self.engine, batch)
            loss_B = topk_huber(student_BTK, batch.teacher_BTK, batch.taught_BT, delta=self.settings.huber_delta)
            if not torch.isfinite(loss_B).all():
                self._refuse_loss(step, batch, loss_B)
            # Every micro-batch has as many rows, so DeepSpeed's mean over processes and micro-batches is the mean over
            # the rows of the batch, and the gradient does not depend on how the batch was cut.
            self.engine.backward(loss_B.mean())
            for place, chosen in ((0, batch.forget_B), (2, ~batch.forget_B)):
                totals[place] += loss_B.detach()[chosen].sum().double().cpu()
                totals[place + 1] += chosen.sum().cpu()
            totals[4] += batch.mask_BL.sum().cpu()
            # Without ZeRO, DeepSpeed clips but does not tell the norm; the gradients are averaged by now.
            norm = self._plain_norm() if self.settings.zero_stage == 0 else None
            self.engine.step()
        totals = totals.to(self.engine.device)
        dist.all_reduce(totals)
        forget_sum, forget_count, retain_sum, retain_count, tokens = totals.tolist()
        if norm is None:
            norm = float(self.engine.get_global_grad_norm())
        if not np.isfinite(norm):
            raise TrainingError(
                f"The gradient norm at step {step} is {norm}.",
                "The weights may be spoilt from here on, so the run stopped and nothing was exported.",
                "Lower student.learning_rate, or train in float32:  --set student.dtype=float32",
            )
        seconds = time.perf_counter() - began
        return StepMetrics(
            step=step,
            epoch=(step + 1) / self.stream.steps_per_epoch,
            loss=(forget_sum + retain_sum) / len(rows),
            loss_forget=forget_sum / forget_count if forget_count else None,
            loss_retain=retain_sum / retain_count if retain_count else None,
            grad_norm=norm,
            learning_rate=rate,
            tokens_per_s=tokens / seconds,
            step_s=seconds,
        )

    def _plain_norm(self) -> float | None:
        if self.engine.bfloat16_enabled() or not self.engine.is_gradient_accumulation_boundary():
            return None
        return float(torch.nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None]))

    def _micro_batches(self, rows: np.ndarray) -> Iterator[Batch]:
        """This process's part of the global batch, cut into micro-batches."""
        size = self.settings.micro_batch(self.world)
        share = len(rows) // self.world
        own = rows[self.rank * share : (self.rank + 1) * share]
        for start in range(0, len(own), size):
            read = [self.cache.row(int(row)) for row in own[start : start + size]]
            chosen = [row.first(positions=self._kept_positions[row.split]) for row in read]
            yield collate(chosen, pad_id=self.pad_id).to(self.engine.device)

    def _refuse_loss(self, step: int, batch: Batch, loss_B: torch.Tensor) -> None:
        bad = (~torch.isfinite(loss_B)).tolist()
        names = [name for name, is_bad in zip(batch.example_ids, bad, strict=True) if is_bad]
        raise TrainingError(
            f"The loss is not finite at step {step}, on example {names[0]} ({len(names)} rows of its micro-batch).",
            "The weights before this step were still finite; nothing was exported.",
            "Lower student.learning_rate, raise student.warmup_share, or train in float32:  --set student.dtype=float32",
        )


def start_process_group() -> None:
    """Join the launcher's processes, or be the only one."""
    if dist.is_initialized():
        return
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    if not cuda_is_available():
        torch.set_num_threads(
            max(core_count() // int(os.environ["LOCAL_WORLD_SIZE"]), 1)
            if "LOCAL_WORLD_SIZE" in os.environ
            else core_count()
        )
    if os.environ["WORLD_SIZE"] == "1":
        # DeepSpeed would spend half a minute on compiling collectives for processes that share memory.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if cuda_is_available() else "gloo", verbose=False)


def check_config(config: dict[str, Any]) -> None:
    """Raise TrainingError if DeepSpeed would refuse the configuration, which it does only after the model is loaded."""
    try:
        DeepSpeedConfig(config)
    except (DeepSpeedConfigError, AssertionError, ValueError, KeyError) as error:
        raise TrainingError(
            f"DeepSpeed refuses its configuration: {' '.join(str(error).split())[:300]}.",
            "It is checked before the model is loaded, so nothing was trained.",
            "Change what the student section says about batches, ZeRO and offload; duet settings explains each.",
        ) from error
    if config["bf16"]["enabled"] and not get_accelerator().is_bf16_supported():
        raise TrainingError(
            "This GPU does not compute in bfloat16.",
            "DeepSpeed would refuse it after loading the model, so nothing was trained.",
            "Train in float32:  --set student.dtype=float32",
        )


def _load(folder: Path, settings: StudentSettings) -> PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    try:
        network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), attn_implementation=attention_of(folder)
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"transformers cannot load {folder}: {error}") from error
    if settings.activation_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.method == "lora":
        from stages.student.lora import add_adapters

        return add_adapters(network, settings)
    return network
