"""What can be set about training, and what DeepSpeed is told."""

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from stages.errors import TrainingError
from stages.settings import InputPath, ModelName, Section, WholeChoice, one_or_many

# Where and how a run is carried out, and watched. ZeRO's stage is not among them: another one stores its state otherwise.
NOT_DETERMINING = {
    "micro_batch_rows", "share_beginning", "processes", "activation_checkpointing",
    "checkpoint_steps", "checkpoint_minutes", "keep_checkpoints", "warn_rising_steps", "monitors", "other_base",
}  # fmt: skip


ResponseFilter = Literal["none", "forget", "retain", "both"]
ZeroStage = Annotated[Literal[0, 1, 2, 3], WholeChoice]


class TrainingSettings(Section):
    """How a step of training is made, whatever is learnt: weights, rates, sizes and memory."""

    # The section of the settings file, for messages.
    section: ClassVar[str] = "student"

    method: Literal["full", "lora"] = Field(
        "full", description="full trains every weight; lora trains small adapters (PEFT) on a frozen base."
    )
    lora_rank: int | None = Field(
        None, ge=1, le=2**12, description="Rank of the adapters, under lora only; default: 16."
    )
    lora_alpha: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="An adapter's output is scaled by lora_alpha / lora_rank; default: twice the rank.",
    )
    lora_targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Linear layers with an adapter, by the last part of their names (q_proj, …); default: all but the head.",
    )
    learning_rate: float = Field(
        5e-5,
        ge=1e-12,
        le=1,
        description="Peak of the schedule. LoRA usually wants some ten times as much; that was not measured here.",
    )
    batch_rows: int = Field(16, ge=2, le=2**16, description="Rows per optimiser step, over all processes.")
    micro_batch_rows: int | None = Field(
        None,
        ge=1,
        le=2**16,
        description="Rows per process and forward pass, those of like length together; default: all of its share.",
    )
    share_beginning: bool | None = Field(
        None,
        description="Read what all rows of a micro-batch begin with, a system prompt, once: the same gradient from fewer "
        "tokens; default: on a CPU, where that saves many. Never with sliding windows or states instead of keys and values; "
        "on a GPU it was not measured.",
    )
    warmup_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of all steps in which the rate rises linearly; then it falls linearly towards 0.",
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(
        20.0,
        ge=1e-6,
        le=1e9,
        description="Gradients are clipped to this norm; distillation's loss sums over K candidates.",
    )
    seed: int = Field(
        0, ge=0, description="Order of the rows, and the adapters' first weights. Nothing else is random."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Dtype of weights and activations; bfloat16 keeps float32 master weights."
    )
    zero_stage: ZeroStage = Field(1, description="DeepSpeed ZeRO stage.")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="What ZeRO moves to CPU memory; all (stage 3) adds the weights."
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )

    @model_validator(mode="after")
    def _combinations(self) -> "TrainingSettings":
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError("offload needs zero_stage 1, 2 or 3")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("offload = all needs zero_stage = 3")
        if self.share_beginning and (self.zero_stage == 3 or self.activation_checkpointing):
            # ZeRO-3 would gather every weight twice; a recomputed layer keeps no keys and values.
            raise ValueError("share_beginning needs zero_stage 0, 1 or 2 and no activation_checkpointing")
        given = [name for name in ("lora_rank", "lora_alpha", "lora_targets") if getattr(self, name) is not None]
        if given and self.method != "lora":
            raise ValueError(f"{given[0]} needs method = lora")
        return self

    def determining(self) -> dict[str, Any]:
        """The settings that change the trained weights, by more than rounding."""
        return self.model_dump(mode="json", exclude=NOT_DETERMINING)

    @property
    def rank(self) -> int:
        """Rank of the adapters."""
        return self.lora_rank or 16

    @property
    def alpha(self) -> int:
        """Numerator of the adapters' scale."""
        return self.lora_alpha or 2 * self.rank

    @property
    def method_in_words(self) -> str:
        """How the weights came about, for people."""
        if self.method == "full":
            return "every weight trained"
        where = ", ".join(self.lora_targets) if self.lora_targets else "every linear layer but the head"
        return f"LoRA of rank {self.rank}, alpha {self.alpha}, on {where}"

    def micro_batch(self, world: int) -> int:
        """Rows per process and forward pass. Raises TrainingError if the batch does not divide."""
        share, rest = divmod(self.batch_rows, world)
        size = self.micro_batch_rows or share
        if rest or not share or share % size:
            raise TrainingError(
                f"A batch of {self.batch_rows} rows does not divide into {world} processes × micro-batches of {size}.",
                "Every process must see as many rows, or the mean would be another one.",
                f"Set {self.section}.batch_rows to a multiple of processes × {self.section}.micro_batch_rows.",
            )
        return size


class RunSettings(TrainingSettings):
    """How a whole run is carried out, saved and watched."""

    epochs: int = Field(8, ge=1, le=10**4, description="Passes over as many rows as there are.")
    processes: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Training processes on this machine, at most one per GPU, or four per core where there is none; "
        "default: one per GPU, or one.",
    )
    checkpoint_steps: int | None = Field(
        None, ge=1, le=10**9, description="Steps between checkpoints; default: by time alone."
    )
    checkpoint_minutes: float | None = Field(
        10.0,
        gt=0,
        le=525_600,
        description="Minutes between checkpoints, a year at most: what a kill can cost. SIGTERM saves one in any case.",
    )
    keep_checkpoints: int = Field(
        2, ge=1, le=1000, description="Newest checkpoints that stay; a finished run needs none and keeps none."
    )
    validation_share: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the rows, of each split, that is never trained on."
    )
    patience_epochs: int | None = Field(
        None,
        ge=1,
        le=10**4,
        description="Stop once the validation loss has not fallen for so many epochs; default: never.",
    )
    warn_rising_steps: int | None = Field(
        20, ge=1, le=10**9, description="Warn once the smoothed loss has risen for so many steps in a row."
    )
    monitors: tuple[Literal["wandb", "mlflow"], ...] = Field(
        (), description="Where metrics go beside TensorBoard; each reads its own environment variables."
    )

    @model_validator(mode="after")
    def _patience(self) -> "RunSettings":
        if self.patience_epochs is not None and not self.validation_share:
            raise ValueError("patience_epochs needs a validation_share above 0: there is no validation loss without")
        return self


class StudentSettings(RunSettings):
    """Stage two: distillation from a logit cache."""

    forget_share: float | None = Field(
        None, gt=0, lt=1, description="Share of forget rows per batch; default: the cache's."
    )
    forget_positions: int | None = Field(
        None,
        ge=1,
        le=2**17,
        description="Positions of each forget row that are supervised, from the first; default: all cached.",
    )
    retain_positions: int | None = Field(
        None,
        ge=1,
        le=2**17,
        description="The same for retain rows: more of them hold a kept answer in place beyond its first token.",
    )
    response_filter: ResponseFilter = Field(
        "none",
        description="Leave rows out by the cached response: forget rows on which the teacher does not decline, retain rows on "
        "which it does, or both. Not measured yet. `duet cache show --responses` lists them.",
    )
    huber_delta: float = Field(
        1.0, ge=1e-6, le=1e6, description="Logit units: where the loss turns from quadratic to linear."
    )
    other_base: bool = Field(
        False,
        description="Allow a cache that was captured from another model than model.path: the student is then taught another "
        "model's logits. Tokenizer and template must be the same in any case.",
    )


class FinetuneSettings(RunSettings):
    """Fine-tuning on questions with their answers: to make a model that knows a topic, and one that never knew it."""

    section: ClassVar[str] = "finetune"

    model: ModelName = Field(
        "models/SmolLM2-135M-Instruct", description="The model to begin with: a folder, or a hub name."
    )
    forget: tuple[InputPath, ...] = Field(
        (), description="Question files of what is to be forgotten later; --without-forget leaves them out."
    )
    retain: tuple[InputPath, ...] = Field((), description="Question files of everything else.")
    group_by_length: bool = Field(
        False, description="Batches of rows of like length: little is padded, and a batch is less of a mixture."
    )
    max_grad_norm: float = Field(1.0, ge=1e-6, le=1e9, description="Gradients are clipped to this norm.")

    _one_or_many = field_validator("forget", "retain", mode="before")(one_or_many)


class RelearningSettings(TrainingSettings):
    """The attacker who trains an unlearned model again; each run is a process of its own, on one device."""

    section: ClassVar[str] = "relearning"

    steps: tuple[Annotated[int, Field(ge=0, le=10**5)], ...] = Field(
        (0, 1, 2, 4, 8, 16, 32),
        min_length=2,
        description="Optimiser steps after which the model is asked; the last ends the run.",
    )
    unrelated: InputPath | None = Field(
        None,
        description="Question file with answers, on other matters, for the second run; default: that run is left out.",
    )
    learning_rate: float = Field(5e-5, ge=1e-12, le=1, description="Peak of the schedule.")
    batch_rows: int = Field(8, ge=1, le=2**16, description="Rows per optimiser step.")
    max_grad_norm: float = Field(1.0, ge=1e-6, le=1e9, description="Gradients are clipped to this norm.")
    zero_stage: ZeroStage = Field(0, description="DeepSpeed ZeRO stage.")

    @model_validator(mode="after")
    def _rising(self) -> "RelearningSettings":
        if self.steps[0] != 0 or any(later <= earlier for earlier, later in pairwise(self.steps)):
            raise ValueError("steps must rise from 0: the curve begins before the first step")
        return self


def learning_rate_at(step: int, settings: TrainingSettings, *, total_steps: int) -> float:
    """Rate of optimiser step `step`, from 0: linear warm-up to the peak, then linear decay towards 0 after the last step.

    A function of the step alone, so resuming needs no state. No step has the rate 0: DeepSpeed's own schedule spends
    its first two steps there.
    """
    warmup = round(settings.warmup_share * total_steps)
    share = (step + 1) / (warmup + 1) if step < warmup else (total_steps - step) / (total_steps - warmup)
    return settings.learning_rate * share


def deepspeed_config(settings: TrainingSettings, *, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration: ZeRO, precision, AdamW, clipping."""
    micro = settings.micro_batch(world)
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": settings.batch_rows,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": settings.batch_rows // (micro * world),
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "optimizer": {
            "type": "AdamW",
            # torch's own AdamW: DeepSpeed's would be compiled on first use. Fused, the step of 135 M weights on two
            # cores took 0.15 s instead of 0.45 s (ZeRO 0), and 1.3 s instead of 2.7 s (ZeRO 1).
            "params": {
                "lr": settings.learning_rate,
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
                "fused": True,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
