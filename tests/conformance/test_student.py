"""Every architecture of the matrix as a student: it begins with its base's logits, learns as row by row, and exports what it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance.architectures import CONFIGS, UNLISTED, make
from conformance.plain import SHAPES, plain_logits
from conftest import write_cache
from plain_training import row_loss, tokens
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.errors import TrainingError
from stages.language_model.architectures import takes_padding
from stages.language_model.folder import load_tokenizer
from stages.language_model.loading import load_network
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.student.batches import collate
from stages.student.distillation import Distillation
from stages.student.engine import StudentEngine, start_process_group
from stages.student.export import export_model
from stages.student.objective import student_logits, topk_huber
from stages.student.settings import StudentSettings
from stages.student.training import StudentTrainer

# Minutes in all: each of the architectures is trained by DeepSpeed.
pytestmark = pytest.mark.slow
ROWS = 8
# What differs is the order of sums, and for gated delta nets and MoE the grouping of tokens. Relative, of the largest.
TOLERANCE = 1e-4
TOLERANCES = {"Qwen3-Next": 5e-3}
SETTINGS: dict[str, Any] = {"batch_rows": 4, "epochs": 1, "zero_stage": 0, "learning_rate": 1e-2, "warmup_share": 0.0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LogitCache:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    write_cache(folder, rows=ROWS, shard_rows=ROWS)
    return LogitCache(folder)


@pytest.fixture(scope="module", params=CONFIGS | UNLISTED)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(architecture: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(architecture, tiny_model, tmp_path_factory.mktemp("models") / "model")


def losses_alone(network: Any, rows: list[Row]) -> torch.Tensor:
    """The mean loss over the rows, each in a plain pass by itself."""
    each = [row_loss(network(tokens(row), use_cache=False).logits[0], row, len(row.response_ids)) for row in rows]
    return torch.stack(each).mean()


def begun_alike(row: Row) -> Row:
    """The row behind a few tokens that are the same for all."""
    begin = np.arange(20, 32, dtype=np.int32)
    ids, places = row.student_input_ids, row.student_positions
    return replace(row, student_input_ids=np.concatenate([begin, ids]), student_positions=places + len(begin))


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str) -> None:
    size = max(float(expected.abs().max()), 1e-3)
    assert float((found - expected).abs().max()) <= tolerance * size, name


def test_loss_and_gradient_of_a_batch_are_the_mean_over_its_rows_alone(
    architecture: str, model: Path, cache: LogitCache
) -> None:
    network = load_network(model, "float32").eval()
    # Rows that begin alike, so that there is something to share.
    rows = [begun_alike(cache.row(index)) for index in range(4)]
    expected = losses_alone(network, rows)
    expected.backward()
    gradients = {name: each.grad for name, each in network.named_parameters() if each.grad is not None}
    layers = DynamicCache(config=network.config).layers
    can_share = takes_padding(network) and all(type(layer) is DynamicLayer for layer in layers)
    tolerance = TOLERANCES.get(architecture, TOLERANCE)

    for share_from in (None, 1) if can_share else (None,):
        network.zero_grad()
        batch = collate(rows, pad_id=0, share_from=share_from)
        assert bool(len(batch.shared_S)) == (share_from is not None)
        logits_BTK = student_logits(network, batch)
        loss = topk_huber(logits_BTK, batch.teacher_BTK, batch.taught_BT, delta=1.0).mean()
        loss.backward()

        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        for name, each in network.named_parameters():
            if name in gradients:
                assert_close(each.grad, gradients[name], tolerance, name)
            else:
                assert each.grad is None or not each.grad.any(), name


def test_a_student_begins_as_its_base_and_is_exported_as_it_was_trained(
    architecture: str, model: Path, cache: LogitCache, tmp_path: Path
) -> None:
    settings = StudentSettings(**SETTINGS)
    base = load_network(model, "float32").eval()
    trainer = StudentTrainer(model, Distillation(cache, settings), settings, total_steps=1)
    rows = [cache.row(int(index)) for index in trainer.stream.rows_of(0)]

    (metrics,) = trainer.train(tmp_path)

    tolerance = TOLERANCES.get(architecture, TOLERANCE)
    with torch.no_grad():
        assert metrics.loss == pytest.approx(losses_alone(base, rows).item(), rel=tolerance)
    export_model(
        trainer.module, trainer.consolidated_weights(), load_tokenizer(model), model, tmp_path / "model", "card"
    )
    exported = load_network(tmp_path / "model", "float32").eval()
    assert type(exported) is type(base)
    ids = SHAPES["a single prompt"][0]
    found, trained, before = (plain_logits(each, ids) for each in (exported, trainer.module, base))
    assert abs(found - trained).max() <= 1e-5
    assert abs(found - before).max() > 1e-2


RANDOM = {
    "GPT-2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "Llama": {"attention_dropout": 0.5},
    "Falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "Mixtral": {"router_jitter_noise": 0.5, "output_router_logits": True},
}


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("name", RANDOM)
def test_training_is_random_in_nothing_but_the_order_of_rows(
    name: str, recomputes: bool, tiny_model: Path, cache: LogitCache, tmp_path: Path
) -> None:
    model = make(name, tiny_model, tmp_path / "model", **RANDOM[name])
    settings = StudentSettings(**SETTINGS, activation_checkpointing=recomputes)
    losses, passes = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        trainer = StudentTrainer(model, Distillation(cache, settings), settings, total_steps=2)
        counted: list[int] = []
        layer = next(each for each in trainer.module.modules() if isinstance(each, GradientCheckpointingLayer))
        layer.register_forward_pre_hook(lambda *_, counted=counted: counted.append(1))
        losses.append([step.loss for step in trainer.train(tmp_path)])
        passes.append(len(counted))
    rows = [cache.row(int(index)) for index in trainer.stream.rows_of(0)]

    assert losses[0] == losses[1]
    with torch.no_grad():
        expected = losses_alone(load_network(model, "float32").eval(), rows).item()
    assert losses[0][0] == pytest.approx(expected, rel=1e-4)
    # Each step reads a layer once more where it recomputes.
    assert passes[0] == (4 if recomputes else 2)


def test_layers_that_cannot_be_recomputed_are_refused_before_training(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    start_process_group()
    with pytest.raises(TrainingError, match="cannot recompute the layers of LlamaForCausalLM") as refused:
        StudentEngine(tiny_model, StudentSettings(**SETTINGS, activation_checkpointing=True))
    assert "student.activation_checkpointing=false" in refused.value.next_step
