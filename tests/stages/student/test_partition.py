"""One sample stream and one gradient, however many processes, micro-batches and shards there are."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_cache
from transformers import AutoModelForCausalLM

from stages.logit_cache.reader import LogitCache
from stages.student.batches import collate
from stages.student.objective import student_logits, topk_huber
from stages.student.samples import SampleStream, own_micro_batches

ROWS, BATCH = 20, 8


@lru_cache(maxsize=1)
def model_at(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


def gradient(model: torch.nn.Module, cache: LogitCache, parts: list[np.ndarray]) -> torch.Tensor:
    """The mean over equal parts of the gradient of each part's mean loss, in float64."""
    model.zero_grad()
    for rows in parts:
        batch = collate([cache.row(int(row)) for row in rows], pad_id=0)
        loss_B = topk_huber(student_logits(model, batch), batch.teacher_BTK, batch.taught_BT, delta=1.0)
        (loss_B.double().mean() / len(parts)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("shard_rows", [3, 20])
@pytest.mark.parametrize("micro_rows", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_stream_and_the_summed_gradient_are_the_same(
    tmp_path: Path, tiny_model: Path, world: int, micro_rows: int, shard_rows: int
) -> None:
    write_cache(tmp_path / "cut", rows=ROWS, shard_rows=shard_rows, vocab_size=512)
    write_cache(tmp_path / "whole", rows=ROWS, shard_rows=ROWS, vocab_size=512)
    cut, whole = LogitCache(tmp_path / "cut"), LogitCache(tmp_path / "whole")
    streams = [SampleStream(cache.outline()[0], batch_rows=BATCH, seed=5) for cache in (cut, whole)]
    model, tokens = model_at(tiny_model), cut.outline()[1]
    assert len(set(tokens)) > 1

    for step in range(2 * streams[0].steps_per_epoch):
        rows, expected = (stream.rows_of(step) for stream in streams)
        parts = [
            part
            for rank in range(world)
            for part in own_micro_batches(rows, tokens, rank=rank, world=world, micro_rows=micro_rows)
        ]

        share = BATCH // world
        for rank in range(world):
            own = np.concatenate(parts)[rank * share : (rank + 1) * share]
            assert sorted(own) == sorted(expected[rank * share : (rank + 1) * share])
            # The longest first, so that rows of like length are padded together.
            assert (np.diff(tokens[own]) <= 0).all()
        assert {len(part) for part in parts} == {micro_rows}
        if step == 0:
            whole_batch = gradient(model, whole, [expected]).clone()
            torch.testing.assert_close(gradient(model, cut, parts), whole_batch, rtol=1e-5, atol=1e-5)
            assert whole_batch.abs().max() > 1e-2
