"""Each setting of stage two changes a real training as it says, and metrics.jsonl holds what a plain computation finds."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from workspace import Workspace, make_workspace

from stages.errors import TrainingError
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.student.distillation import Distillation
from stages.student.metrics import StepMetrics
from stages.student.settings import StudentSettings
from stages.student.training import StudentTrainer

pytestmark = pytest.mark.slow
PLAIN: dict[str, Any] = {"batch_rows": 4, "epochs": 1, "zero_stage": 0, "learning_rate": 1e-3, "warmup_share": 0.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A cache of three forget and four retain rows, two positions each."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    return workspace


def trained(captured: Workspace, run: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The lines of metrics.jsonl, and the weights."""
    settings = StudentSettings(**PLAIN | changes)
    run.mkdir()
    trainer = StudentTrainer(captured.model, Distillation(LogitCache(captured.cache), settings), settings)
    trainer.train(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, trainer.consolidated_weights()


def gaps(network: Any, row: Row, positions: int | None) -> np.ndarray:
    """float64 [T, K]: student minus teacher, by one plain pass over the whole row."""
    ids = torch.from_numpy(np.concatenate([row.student_input_ids, row.response_ids]).astype(np.int64))[None]
    with torch.no_grad():
        logits_LV = network(input_ids=ids).logits[0].double().numpy()
    kept = range(min(positions or len(row.response_ids), len(row.response_ids)))
    return np.stack([logits_LV[row.student_positions[t], row.topk_ids[t]] - row.topk_logits[t] for t in kept])


def expected_loss(network: Any, rows: Sequence[Row], delta: float = 1.0, positions: int | None = None) -> float:
    """Eq. 3 written out: quadratic up to delta, linear beyond, summed over K, mean over positions and rows."""
    found = []
    for row in rows:
        gap = abs(gaps(network, row, positions))
        found.append(np.where(gap <= delta, gap**2 / 2, delta * gap - delta**2 / 2).sum(axis=1).mean())
    return float(np.mean(found))


@pytest.fixture(scope="module")
def base(captured: Workspace) -> Any:
    return AutoModelForCausalLM.from_pretrained(captured.model).eval()


@pytest.fixture(scope="module")
def rows(captured: Workspace) -> list[Row]:
    return list(LogitCache(captured.cache).rows())


@pytest.mark.parametrize("delta", [0.05, 1.0, 40.0])
def test_losses_are_eq_3_with_the_huber_delta_that_is_set(
    captured: Workspace, base: Any, rows: list[Row], tmp_path: Path, delta: float
) -> None:
    # All seven rows in one batch: the first step has the base's own losses.
    (first,), _ = trained(captured, tmp_path / "run", batch_rows=7, huber_delta=delta)

    forget, retain = (
        expected_loss(base, [row for row in rows if row.split == split], delta) for split in ("forget", "retain")
    )
    assert first["loss_forget"] == pytest.approx(forget, rel=1e-4)
    assert first["loss_retain"] == pytest.approx(retain, rel=1e-4)
    assert first["loss"] == pytest.approx((3 * forget + 4 * retain) / 7, rel=1e-4)


def test_positions_of_each_split_are_supervised_as_far_as_set(
    captured: Workspace, base: Any, rows: list[Row], tmp_path: Path
) -> None:
    of = {split: [row for row in rows if row.split == split] for split in ("forget", "retain")}
    losses = {
        (split, positions): expected_loss(base, of[split], positions=positions) for split in of for positions in (1, 2)
    }
    assert abs(losses["forget", 1] - losses["forget", 2]) > 1e-3 < abs(losses["retain", 1] - losses["retain", 2])

    (first,), _ = trained(captured, tmp_path / "one", batch_rows=7, forget_positions=1)
    (other,), _ = trained(captured, tmp_path / "other", batch_rows=7, retain_positions=1)

    assert (first["loss_forget"], first["loss_retain"]) == pytest.approx(
        (losses["forget", 1], losses["retain", 2]), rel=1e-4
    )
    assert (other["loss_forget"], other["loss_retain"]) == pytest.approx(
        (losses["forget", 2], losses["retain", 1]), rel=1e-4
    )


@pytest.mark.parametrize(("share", "forget_rows"), [(0.25, 1), (0.5, 2), (0.75, 3)])
def test_the_share_of_forget_rows_in_the_batch_weighs_their_loss(
    captured: Workspace, tmp_path: Path, share: float, forget_rows: int
) -> None:
    lines, _ = trained(captured, tmp_path / "run", forget_share=share)

    for line in lines:
        mean = (forget_rows * line["loss_forget"] + (4 - forget_rows) * line["loss_retain"]) / 4
        assert line["loss"] == pytest.approx(mean, rel=1e-6)


def test_weight_decay_shrinks_each_weight_by_rate_times_decay_beside_the_gradients_step(
    captured: Workspace, base: Any, tmp_path: Path
) -> None:
    _, without = trained(captured, tmp_path / "without", batch_rows=7)
    _, decayed = trained(captured, tmp_path / "with", batch_rows=7, weight_decay=5.0)

    # One step at the rate 1e-3: decoupled decay takes 1e-3 × 5 of the weight as it was, and the gradient's step is the same.
    for name, value in base.state_dict().items():
        if name in without:
            torch.testing.assert_close(decayed[name], without[name] - 5e-3 * value, atol=1e-6, rtol=1e-5)


def test_the_validation_loss_is_that_of_the_weights_after_the_epoch_on_rows_that_no_step_saw(
    captured: Workspace, rows: list[Row], tmp_path: Path
) -> None:
    settings = {"validation_share": 0.3, "batch_rows": 5, "forget_positions": 1}
    lines, weights = trained(captured, tmp_path / "run", **settings)
    network = AutoModelForCausalLM.from_pretrained(captured.model).eval()
    network.load_state_dict(weights, strict=False)
    stream = Distillation(LogitCache(captured.cache), StudentSettings(**PLAIN | settings)).stream
    held_out = set(stream.validation_rows.tolist())
    seen = {int(row) for step in range(len(lines)) for row in stream.rows_of(step)}

    assert len(held_out) == 2 and seen == set(range(7)) - held_out
    found = [
        expected_loss(network, [rows[index]], positions=1 if rows[index].split == "forget" else None)
        for index in held_out
    ]
    assert lines[-1]["loss_validation"] == pytest.approx(np.mean(found), rel=1e-4)
    assert [line["loss_validation"] for line in lines[:-1]] == [None] * (len(lines) - 1)


@pytest.mark.parametrize(
    ("loss", "first", "stops"),
    [
        # K = 5 at delta 1: ten logits off everywhere is a loss of 47.5, a thousand 4997.5.
        (501.0, 5.0, True),
        (499.0, 5.0, False),
        (47.0, 0.1, False),
        (48.0, 0.1, True),
        (4990.0, 4000.0, False),
        (5000.0, 4000.0, True),
    ],
)
def test_a_loss_that_no_model_has_stops_the_training_with_step_and_rows(
    captured: Workspace, rows: list[Row], loss: float, first: float, stops: bool
) -> None:
    settings = StudentSettings(**PLAIN)
    trainer = StudentTrainer(captured.model, Distillation(LogitCache(captured.cache), settings), settings)
    step = StepMetrics(0, 0.5, loss, loss, loss, None, 1.0, 1e-3, 1.0, 1.0)

    if not stops:
        trainer._refuse_absurd_loss(step, first)
        return
    with pytest.raises(TrainingError, match=f"loss at step 0 is {loss:.4g}, and was {first:.4g}") as refused:
        trainer._refuse_absurd_loss(step, first)
    assert rows[trainer.stream.rows_of(0)[0]].example_id in refused.value.found


def test_a_validation_loss_that_is_no_number_stops_the_training(
    captured: Workspace, tmp_path: Path, rows: list[Row]
) -> None:
    settings = StudentSettings(**PLAIN | {"validation_share": 0.3, "batch_rows": 5})
    trainer = StudentTrainer(captured.model, Distillation(LogitCache(captured.cache), settings), settings)
    with torch.no_grad():
        trainer.module.model.norm.weight.fill_(torch.nan)

    with pytest.raises(TrainingError, match="validation loss after step 0 is nan, over 2 held-out rows"):
        trainer._validate(0)


@pytest.mark.parametrize(("rate", "warns"), [(1.0, True), (1e-3, False)])
def test_a_training_that_ends_far_worse_than_it_began_says_so(
    captured: Workspace, tmp_path: Path, rate: float, warns: bool
) -> None:
    settings = StudentSettings(**PLAIN | {"learning_rate": rate})
    trainer = StudentTrainer(captured.model, Distillation(LogitCache(captured.cache), settings), settings)
    said: list[str] = []

    history = trainer.train(tmp_path, warn=said.append)

    assert (history[-1].loss > 2 * history[0].loss) == warns
    assert [text.startswith("Warning: The loss ended at ") for text in said] == [True] * warns
