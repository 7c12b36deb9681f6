"""`make bench-distill`: what streaming, full logits, a shared beginning and a larger cache cost a training step, as ratios
from one run.

Writes docs/results/distill-benchmark.md. Each figure of memory comes from a process of its own; compare figures within
one run only. The rows are made up; a step's time and memory depend on their sizes alone.
"""

import dataclasses
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_rows import VOCABULARY, made_up_rows, write
from conftest import ROOT

from pipeline.default_model import DEFAULT_FOLDER
from stages.files import write_atomically
from stages.language_model.folder import hash_tokenizer, load_tokenizer
from stages.language_model.hardware import describe_hardware

if TYPE_CHECKING:
    import torch

    from stages.student.batches import Batch
    from stages.student.training import StudentTrainer

MODEL = ROOT / DEFAULT_FOLDER
RESULT = ROOT / "docs/results/distill-benchmark.md"
SEED = 0
SHARD_ROWS, FEW_SHARDS = 512, 4
PAIRS = 4
# One supervised position, as in the paper and in the demo.
STUDENT: dict[str, Any] = {
    "zero_stage": 0,
    "epochs": 1,
    "forget_positions": 1,
    "retain_positions": 1,
    "seed": SEED,
    # Nothing is learnt from made-up rows.
    "learning_rate": 1e-6,
}
STEP_ROWS, TOKENS = 16, 30
# As SmolLM2's own system prompt, in front of the query's tokens.
BEGINNING = 24
# Memory is compared at more rows: at sixteen, optimiser and weights hide what logits cost.
MEMORY_ROWS = 64


def start(cache: Path, batch_rows: int = STEP_ROWS) -> "StudentTrainer":
    """The trainer of `duet distill`, after one step that warms it up."""
    from stages.logit_cache.reader import LogitCache
    from stages.student.distillation import Distillation
    from stages.student.settings import StudentSettings
    from stages.student.training import StudentTrainer

    settings = StudentSettings(batch_rows=batch_rows, **STUDENT)
    trainer = StudentTrainer(MODEL, Distillation(LogitCache(cache), settings), settings)
    trainer._step(0)
    return trainer


def steps(cache: Path) -> tuple[list[float], list[float], list[float]]:
    """Seconds of streamed steps, of steps with their batch in memory, and of reading within the streamed ones.

    The two kinds take turns, each on rows that were not read before.
    """
    trainer = start(cache)
    stream = trainer._micro_batches
    reading: list[float] = []

    def timed(rows: np.ndarray) -> "Iterator[Batch]":
        batches, spent = stream(rows), 0.0
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            spent += time.perf_counter() - began
            if batch is None:
                reading.append(spent)
                return
            yield batch

    streamed, ready = [], []
    for step in range(1, 2 * PAIRS + 1):
        if step % 2:
            trainer._micro_batches = timed  # type: ignore[method-assign]
            streamed.append(trainer._step(step).step_s)
        else:
            batches = list(stream(trainer.stream.rows_of(step)))
            trainer._micro_batches = lambda _, batches=batches: iter(batches)  # type: ignore[method-assign,misc]
            ready.append(trainer._step(step).step_s)
    return streamed, ready, reading


def steps_by_reading(cache: Path) -> tuple[list[float], list[float]]:
    """Seconds of steps that read what all rows begin with once, and of steps that read it in every row, in turn."""
    trainer = start(cache)
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(1, 2 * PAIRS + 1):
        rows = trainer.stream.rows_of(step)
        batch = trainer._lesson.batch(rows, pad_id=trainer.pad_id, share_from=1 if step % 2 else None)
        assert len(batch.shared_S) == (BEGINNING if step % 2 else 0)
        trainer._micro_batches = lambda _, batch=batch: iter([batch])  # type: ignore[method-assign,misc]
        seconds[(step + 1) % 2].append(trainer._step(step).step_s)
    return seconds


def peaks(cache: Path, full_logits: bool) -> tuple[float, float]:
    """Peak memory in MB after two steps, and after a pass besides. full_logits: all positions go to the head."""
    from stages.student import distillation

    if full_logits:
        distillation.student_logits = _full_logits
    trainer = start(cache, MEMORY_ROWS)
    trainer._step(1)
    after_steps = _peak_mb()
    read_a_pass(trainer)
    return after_steps, _peak_mb()


def read_a_pass(trainer: "StudentTrainer") -> None:
    """Read every batch of an epoch."""
    for step in range(trainer.stream.steps_per_epoch):
        for _ in trainer._micro_batches(trainer.stream.rows_of(step)):
            pass


def seconds_to_first_step(cache: Path, folder: Path) -> float:
    """From the command's start to the first line of its metrics; then the command is stopped."""
    command = [sys.executable, "-m", "pipeline", "distill", "--config", "capitals", "--cache", str(cache)]
    command += ["--out", str(folder / "run"), "--set", f"model.path={MODEL}"]
    for name, value in {**STUDENT, "batch_rows": STEP_ROWS}.items():
        command += ["--set", f"student.{name}={value}"]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = folder / "run/metrics.jsonl"
    try:
        while not (metrics.is_file() and metrics.stat().st_size):
            if process.poll() is not None:
                assert process.stderr is not None
                raise SystemExit(f"duet distill ended early:\n{process.stderr.read().decode()}")
            time.sleep(0.02)
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def alone(measure: Callable[..., Any], *arguments: object) -> Any:
    """The measure's result from a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply(measure, arguments)
    print(measure.__name__, arguments[1:], result, file=sys.stderr, flush=True)
    return result


def write_cache(folder: Path, shards: int, beginning: int = 0) -> Path:
    """Shards of the same made-up rows, a third of them forget rows, for the model's tokenizer.

    beginning: tokens that stand in front of every query's own, the same in all.
    """
    begin = np.arange(100, 100 + beginning, dtype=np.int32)
    rows = [
        dataclasses.replace(
            row,
            split="forget" if index % 3 == 0 else "retain",
            student_input_ids=np.concatenate([begin, row.student_input_ids]),
            student_positions=row.student_positions + beginning,
        )
        for index, row in enumerate(made_up_rows(SHARD_ROWS, 20))
    ]
    write(folder, rows, shards, tokenizer_sha256=hash_tokenizer(load_tokenizer(MODEL)))
    return folder


def main() -> None:
    """Measure, print, and write the table."""
    load, logits_mb = os.getloadavg()[0], MEMORY_ROWS * TOKENS * VOCABULARY * 4 / 1e6
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small, large = (write_cache(folder / str(shards), shards) for shards in (FEW_SHARDS, 10 * FEW_SHARDS))
        alike = write_cache(folder / "alike", FEW_SHARDS, BEGINNING)
        streamed, ready, reading = alone(steps, large)
        once, in_every_row = alone(steps_by_reading, alike)
        kept, pass_small = alone(peaks, small, False)
        _, pass_large = alone(peaks, large, False)
        full, _ = alone(peaks, small, True)
        first = seconds_to_first_step(small, folder)
    step = statistics.median(streamed)
    pairs = statistics.median(a / b for a, b in zip(streamed, ready, strict=True))
    reads = statistics.median(a / b for a, b in zip(once, in_every_row, strict=True))
    share = statistics.median(spent / whole for spent, whole in zip(reading, streamed, strict=True))
    rows = [
        ("streamed step : the same step with its batch in memory", f"{pairs:.3f}", f"{PAIRS} pairs in turn, median"),
        ("time spent on reading and collating : a streamed step (target ≤ 0.02)", f"{share:.4f}", f"step {step:.2f} s"),
        (
            f"step that reads a common beginning of {BEGINNING} tokens once : in every row",
            f"{reads:.3f}",
            f"{PAIRS} pairs in turn, median; {statistics.median(once):.2f} : {statistics.median(in_every_row):.2f} s",
        ),
        (
            "peak memory, supervised positions : all positions to the head",
            f"{kept / full:.3f}",
            f"{kept:,.0f} : {full:,.0f} MB",
        ),
        (
            "peak memory of a pass, cache 10 times as large : small cache",
            f"{pass_large / pass_small:.3f}",
            f"{pass_large:,.0f} : {pass_small:,.0f} MB",
        ),
        ("start of the command to the end of the first step : a step", f"{first / step:.1f}", f"{first:.1f} s"),
    ]
    table = "\n".join(f"| {name} | {ratio} | {note} |" for name, ratio, note in rows)
    text = f"""# Benchmark of training

Written by `make bench-distill`. {describe_hardware()}, SmolLM2-135M-Instruct in float32, ZeRO 0, seed {SEED}; queries of 30 tokens,
K = 20, one supervised position of 16 cached; {STEP_ROWS} rows per step; caches of
{SHARD_ROWS * FEW_SHARDS:,} and {10 * SHARD_ROWS * FEW_SHARDS:,} rows. Load average at the start: {load:.1f}.
Compare within one run only.

The first ratio compares whole steps and carries all that else ran on the machine; the second is measured inside the streamed
steps. Memory is that of steps of {MEMORY_ROWS} rows, whose full logits are {MEMORY_ROWS} × {TOKENS} × {VOCABULARY:,} × 4 bytes =
{logits_mb:.0f} MB, and their gradient as much again; a pass reads every batch of the cache besides.

| ratio | | |
|---|---:|---|
{table}
"""
    write_atomically(RESULT, text.encode())
    print(f"\n{text}")


def _full_logits(model: "torch.nn.Module", batch: "Batch") -> "torch.Tensor":
    """As a plain trainer does it: [B, L, V] in float32, of which the supervised columns are then taken."""
    output = model(
        input_ids=batch.input_BL, attention_mask=batch.mask_BL, position_ids=batch.positions_BL, use_cache=False
    )
    supervised_BTV = output.logits.float()[:, -batch.taught_BT.shape[1] :]
    return supervised_BTV.gather(-1, batch.topk_ids_BTK)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
