"""The DeepSpeed loop against a plain PyTorch loop, for every ZeRO stage and number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from plain_training import train
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from workspace import Workspace, make_workspace

from pipeline.settings import load_settings
from stages.logit_cache.reader import LogitCache
from stages.student.batches import collate
from stages.student.settings import StudentSettings, learning_rate_at

pytestmark = pytest.mark.slow
EPOCHS = 2
# Clipping must bite, or it is not tested.
SETTINGS = (f"student.epochs={EPOCHS}", "student.max_grad_norm=5.0", "student.forget_positions=1")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A cache of the tiny topic; runs go beside it."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    rows = list(LogitCache(workspace.cache).rows())
    assert len(collate(rows, pad_id=0, share_from=1).shared_S), "or no training here shares anything"
    return workspace


def distill(workspace: Workspace, run: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """`duet distill` in processes of its own."""
    options = [part for value in settings for part in ("--set", value)]
    command = ["distill", "--config", str(workspace.settings), "--cache", str(workspace.cache), "--out", str(run)]
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def plain(captured: Workspace) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and final weights of the same training in plain PyTorch."""
    settings = load_settings(str(captured.settings), SETTINGS).student
    model = AutoModelForCausalLM.from_pretrained(captured.model)
    losses = train(captured.cache, settings, list(model.parameters()), lambda ids: model(input_ids=ids).logits[0])
    return losses, {name: value.detach() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("zero_stage", "processes", "micro_batch_rows", "shares"),
    [
        (0, 1, 4, True),
        (0, 1, 1, False),
        (1, 2, 2, True),
        (2, 2, 1, False),
        (3, 1, 4, False),
        (3, 2, 2, False),
    ],
)
def test_losses_and_weights_are_those_of_a_plain_loop(
    captured: Workspace,
    plain: tuple[list[float], dict[str, torch.Tensor]],
    tmp_path: Path,
    zero_stage: int,
    processes: int,
    micro_batch_rows: int,
    shares: bool,
) -> None:
    cut = (
        f"student.processes={processes}",
        f"student.micro_batch_rows={micro_batch_rows}",
        f"student.share_beginning={str(shares).lower()}",
    )
    result = distill(captured, tmp_path / "run", *SETTINGS, *cut, f"student.zero_stage={zero_stage}")
    assert result.returncode == 0, result.stderr

    losses, weights = plain
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-4)
    assert all(line["grad_norm"] > 5 for line in lines)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model").state_dict()
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, atol=5e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    moved = AutoModelForCausalLM.from_pretrained(captured.model).state_dict()
    assert max((moved[name] - value).abs().max().item() for name, value in weights.items()) > 1e-3


def test_a_broken_weight_stops_the_run_with_step_and_example_and_exports_nothing(
    captured: Workspace, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in captured.model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})

    result = distill(captured, tmp_path / "run", f"model.path={broken}", "student.other_base=true")

    assert result.returncode == 1
    assert "The loss is not finite at step 0, on example" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run/model").exists()
    assert not (tmp_path / "run/run.json").exists()


def test_a_batch_that_does_not_divide_is_refused_before_anything_starts(captured: Workspace, tmp_path: Path) -> None:
    result = distill(captured, tmp_path / "run", "student.processes=3")

    assert result.returncode == 1
    assert "does not divide into 3 processes" in result.stderr
    assert not (tmp_path / "run").exists()


def test_bfloat16_trains_and_exports_bfloat16(captured: Workspace, tmp_path: Path) -> None:
    result = distill(captured, tmp_path / "run", "student.dtype=bfloat16", "student.zero_stage=1")
    assert result.returncode == 0, result.stderr

    weights = load_file(tmp_path / "run/model/model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_the_rate_rises_to_its_peak_falls_and_is_never_zero(total: int) -> None:
    settings = StudentSettings(learning_rate=1.0, warmup_share=0.1)

    rates = [learning_rate_at(step, settings, total_steps=total) for step in range(total)]

    peak = round(0.1 * total)
    assert rates[peak] == max(rates) == 1.0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0
