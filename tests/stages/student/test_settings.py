"""The learning rate as a function of the step, what DeepSpeed is told, and what is refused before it is told."""

import pytest
from pydantic import ValidationError

from stages.errors import TrainingError
from stages.student.settings import StudentSettings, deepspeed_config, learning_rate_at


def rates(steps: int, **settings: float) -> list[float]:
    chosen = StudentSettings(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate_at(step, chosen, total_steps=steps) for step in range(steps)]


def test_the_rate_rises_to_its_peak_and_falls_towards_zero() -> None:
    assert rates(10, warmup_share=0.3) == pytest.approx([0.25, 0.5, 0.75, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_no_step_is_wasted_on_a_rate_of_zero_and_none_exceeds_the_peak(share: float, steps: int) -> None:
    found = rates(steps, warmup_share=share)

    assert all(0 < rate <= 1 for rate in found)
    # A run of one or two steps may be all warm-up; any other meets its peak.
    assert max(found) == 1 or share > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offload": "optimizer", "zero_stage": 0}, "offload needs zero_stage"),
        ({"offload": "all", "zero_stage": 2}, "needs zero_stage = 3"),
        ({"zero_stage": 4}, "zero_stage"),
        ({"lora_rank": 8}, "lora_rank needs method = lora"),
        ({"method": "full", "lora_alpha": 8}, "lora_alpha needs method = lora"),
        ({"lora_targets": ["q_proj"]}, "lora_targets needs method = lora"),
        ({"method": "lora", "lora_rank": 0}, "lora_rank"),
        ({"method": "lora", "lora_targets": []}, "lora_targets"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"share_beginning": True, "zero_stage": 3}, "share_beginning needs zero_stage 0, 1 or 2"),
        ({"share_beginning": True, "activation_checkpointing": True}, "no activation_checkpointing"),
        ({"batch_rows": 1}, "batch_rows"),
        ({"forget_share": 1.0}, "forget_share"),
        ({"lerning_rate": 1e-5}, "lerning_rate"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"weight_decay": float("inf")}, "finite number"),
        ({"huber_delta": 1e-300}, "huber_delta"),
        ({"epochs": 10**5}, "epochs"),
        ({"batch_rows": True}, "batch_rows"),
        ({"seed": 10**30}, "seed"),
        ({"patience_epochs": 2}, "patience_epochs needs a validation_share"),
    ],
)
def test_what_cannot_train_is_refused_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudentSettings.model_validate(settings)


def test_an_adapter_is_scaled_by_two_unless_told_otherwise() -> None:
    plain, told = StudentSettings(method="lora"), StudentSettings(method="lora", lora_rank=4, lora_alpha=6)

    assert (plain.rank, plain.alpha) == (16, 32)
    assert (told.rank, told.alpha) == (4, 6)
    assert StudentSettings(method="lora", lora_rank=4).alpha == 8


@pytest.mark.parametrize(
    ("batch", "micro", "world", "expected"),
    [(16, None, 1, 16), (16, None, 4, 4), (16, 2, 4, 2), (16, 16, 1, 16), (12, 3, 2, 3)],
)
def test_a_batch_is_cut_alike_for_every_process(batch: int, micro: int | None, world: int, expected: int) -> None:
    settings = StudentSettings(batch_rows=batch, micro_batch_rows=micro)

    assert settings.micro_batch(world) == expected
    told = deepspeed_config(settings, world=world)
    # DeepSpeed's own invariant, and the only way in which it would fail late.
    assert (
        told["train_batch_size"]
        == told["train_micro_batch_size_per_gpu"] * told["gradient_accumulation_steps"] * world
        == batch
    )


@pytest.mark.parametrize(("batch", "micro", "world"), [(16, None, 3), (16, 3, 2), (16, 32, 1), (2, None, 4)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, micro: int | None, world: int) -> None:
    with pytest.raises(TrainingError, match=f"A batch of {batch} rows does not divide"):
        StudentSettings(batch_rows=batch, micro_batch_rows=micro).micro_batch(world)


def test_offload_moves_the_optimizer_first_and_the_weights_only_when_asked() -> None:
    told = {
        offload: deepspeed_config(StudentSettings(zero_stage=3, offload=offload), world=1)["zero_optimization"]
        for offload in ("none", "optimizer", "all")
    }

    assert {offload: sorted(zero) for offload, zero in told.items()} == {
        "none": ["stage"],
        "optimizer": ["offload_optimizer", "stage"],
        "all": ["offload_optimizer", "offload_param", "stage"],
    }


def test_deepspeed_itself_accepts_what_it_is_told() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    for settings in (
        StudentSettings(),
        StudentSettings(dtype="bfloat16", zero_stage=3, offload="all", micro_batch_rows=2),
        StudentSettings(zero_stage=2, offload="optimizer"),
    ):
        config = DeepSpeedConfig(deepspeed_config(settings, world=1))
        assert config.zero_config.stage == settings.zero_stage
        assert config.gradient_clipping == settings.max_grad_norm


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_batch_size": 7}, "7 != 16"),
        ({"zero_optimization": {"stage": 9}}, "stage"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "simultaneously"),
    ],
)
def test_what_deepspeed_would_refuse_after_loading_is_refused_before(change: dict[str, object], message: str) -> None:
    from stages.student.engine import check_config

    config = deepspeed_config(StudentSettings(batch_rows=16), world=1)
    check_config(config)

    with pytest.raises(TrainingError, match=f"DeepSpeed refuses its configuration.*{message}"):
        check_config({**config, **change})
