"""LoRA: what is trained, what is refused, and the adapter and the merged model against a loop without PEFT."""

import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from conftest import ROOT, make_fingerprint, make_row
from plain_training import train
from safetensors.torch import load_file
from small_files import files_up_to
from transformers import AutoModelForCausalLM
from workspace import Workspace, make_workspace

from pipeline.settings import load_settings
from stages.errors import TrainingError
from stages.language_model.folder import hash_weights
from stages.student.batches import Batch, collate
from stages.student.lora import add_adapters, export_adapter
from stages.student.objective import student_logits, topk_huber
from stages.student.settings import StudentSettings

RANK, ALPHA = 4, 12
SETTINGS = (
    'student.method="lora"',
    f"student.lora_rank={RANK}",
    f"student.lora_alpha={ALPHA}",
    'student.lora_targets=["q_proj", "down_proj"]',
    "student.epochs=4",
    "student.learning_rate=1e-2",
    "student.max_grad_norm=5.0",
)


def wrapped(model: Path, **settings: object) -> peft.PeftModel:
    chosen = StudentSettings.model_validate({"method": "lora", "lora_rank": RANK, **settings})
    return add_adapters(AutoModelForCausalLM.from_pretrained(model), chosen)


def some_batch() -> Batch:
    fingerprint = make_fingerprint()
    return collate([make_row(index, fingerprint) for index in range(4)], pad_id=0)


def test_only_adapters_train_and_at_first_they_change_nothing(tiny_model: Path) -> None:
    bare, network = AutoModelForCausalLM.from_pretrained(tiny_model), wrapped(tiny_model)

    torch.testing.assert_close(student_logits(network, some_batch()), student_logits(bare, some_batch()))
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in trained)
    # Per block and rank, inputs + outputs of q, k, v, o (64 wide; 2 heads and 1 of 32) and of gate, up, down (128 wide).
    assert sum(weight.numel() for weight in trained.values()) == 2 * RANK * (128 + 96 + 96 + 128 + 3 * 192)


def test_only_the_supervised_positions_reach_the_head(tiny_model: Path) -> None:
    network, batch, seen = wrapped(tiny_model), some_batch(), []
    network.get_base_model().lm_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))

    student_logits(network, batch)

    assert batch.input_BL.shape[1] > 3
    assert seen == [(4, 3, 64)]


def test_an_adapter_without_room_is_one_message_and_takes_none(tiny_model: Path, tmp_path: Path) -> None:
    network = wrapped(tiny_model)
    weights = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}

    with files_up_to(1000), pytest.raises(TrainingError, match=r"could not be written to .*File too large"):
        export_adapter(network, weights, tmp_path / "adapter", base="owner/small", card="# Card")

    assert list(tmp_path.iterdir()) == []


def test_targets_narrow_where_adapters_go(tiny_model: Path) -> None:
    network = wrapped(tiny_model, lora_targets=["q_proj"])

    adapted = {name.split(".lora_")[0] for name, weight in network.named_parameters() if weight.requires_grad}
    assert adapted == {f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)}


@pytest.mark.parametrize("target", ["query", "lm_head", "embed_tokens"])
def test_a_target_without_a_layer_is_refused_and_the_layers_are_named(tiny_model: Path, target: str) -> None:
    with pytest.raises(TrainingError, match=rf"'{target}'") as refused:
        wrapped(tiny_model, lora_targets=["q_proj", target])

    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in refused.value.next_step


def test_checkpointed_activations_give_the_same_gradients(tiny_model: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        network = wrapped(tiny_model, activation_checkpointing=checkpointing)
        if checkpointing:
            network.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        network.train()
        batch = some_batch()
        topk_huber(student_logits(network, batch), batch.teacher_BTK, batch.taught_BT, delta=1.0).mean().backward()
        gradients.append({name: w.grad for name, w in network.named_parameters() if w.requires_grad})

    # The second factor of an adapter is zero at first, so only its own gradient is not.
    assert all(value.any() for name, value in gradients[0].items() if "lora_B" in name)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A cache of the tiny topic; runs go beside it."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    return workspace


@pytest.fixture(scope="module")
def plain(captured: Workspace) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, adapters and whole weights of the same training without PEFT: W + (alpha / rank) · B · A, written out."""
    settings = load_settings(str(captured.settings), SETTINGS).student
    start = {
        name.removeprefix("base_model.model.").replace(".default", ""): weight.detach().clone().requires_grad_()
        for name, weight in add_adapters(
            AutoModelForCausalLM.from_pretrained(captured.model), settings
        ).named_parameters()
        if weight.requires_grad
    }
    model = AutoModelForCausalLM.from_pretrained(captured.model).requires_grad_(False)
    base = dict(model.named_parameters())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the processes has

    def weights() -> dict[str, torch.Tensor]:
        whole = dict(base)
        for name, first_RH in start.items():
            if name.endswith(".lora_A.weight"):
                layer = name.removesuffix(".lora_A.weight")
                second_HR = start[f"{layer}.lora_B.weight"]
                whole[f"{layer}.weight"] = base[f"{layer}.weight"] + ALPHA / RANK * second_HR @ first_RH
        return whole

    losses = train(
        captured.cache,
        settings,
        list(start.values()),
        lambda ids: torch.func.functional_call(model, weights(), kwargs={"input_ids": ids}).logits[0],
    )
    torch.set_num_threads(threads)
    return losses, {name: value.detach() for name, value in start.items()}, weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero_stage", "processes", "more"),
    [
        (0, 1, ()),
        (1, 2, ("student.micro_batch_rows=1",)),
        (2, 1, ("student.activation_checkpointing=true",)),
        (3, 2, ("student.activation_checkpointing=true",)),
    ],
)
def test_adapter_and_merged_model_are_those_of_a_plain_loop(
    captured: Workspace,
    plain: tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]],
    tmp_path: Path,
    zero_stage: int,
    processes: int,
    more: tuple[str, ...],
) -> None:
    before = hash_weights(captured.model)
    command = [sys.executable, "-m", "pipeline", "distill", "--config", captured.settings]
    command += ["--cache", captured.cache, "--out", tmp_path / "run"]
    for setting in (*SETTINGS, *more, f"student.zero_stage={zero_stage}", f"student.processes={processes}"):
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr

    losses, adapters, weights = plain
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < 0.9 * losses[0]
    found = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert {name.removeprefix("base_model.model.") for name in found} == adapters.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, adapters[name.removeprefix("base_model.model.")], atol=1e-4, rtol=0)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    base = AutoModelForCausalLM.from_pretrained(captured.model)
    for name, value in merged.named_parameters():
        torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=0)
        if not name.endswith(("q_proj.weight", "down_proj.weight")):
            assert torch.equal(value, base.get_parameter(name)), name

    # As a user would load it: by PEFT, on the untouched base.
    on_base = peft.PeftModel.from_pretrained(base, tmp_path / "run/adapter")
    assert on_base.peft_config["default"].base_model_name_or_path == str(captured.model)
    batch = some_batch()
    torch.testing.assert_close(student_logits(merged, batch), student_logits(on_base, batch), atol=1e-4, rtol=1e-5)
    assert hash_weights(captured.model) == before
    for card in ("adapter", "model"):
        text = (tmp_path / "run" / card / "README.md").read_text(encoding="utf-8")
        assert "Method: LoRA of rank 4, alpha 12, on q_proj, down_proj" in text


@pytest.mark.slow
def test_bfloat16_adapters_keep_their_base_in_bfloat16(captured: Workspace, tmp_path: Path) -> None:
    options = [
        part for each in (*SETTINGS, "student.dtype=bfloat16", "student.zero_stage=1") for part in ("--set", each)
    ]
    command = ["distill", "--config", captured.settings, "--cache", captured.cache, "--out", tmp_path / "run"]
    result = captured.duet(*command, *options)
    assert result.exit_code == 0, result.output

    for file in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert {value.dtype for value in load_file(tmp_path / "run" / file).values()} == {torch.bfloat16}
