"""`make bench-cache`: bytes per position on real logits, speed of writing and reading on one core, memory while reading.

Prints one Markdown table with the machine's name. Rates are the best of three; compare them within one run only.
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from conftest import ROOT, make_fingerprint, make_provenance

from stages.language_model.hardware import describe_hardware
from stages.logit_cache.manifest import Prefix
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter, Plan

VOCABULARY, POSITIONS, SHARD_ROWS, SHARDS = 49152, 16, 512, 20
REPEATS = 3


def made_up_rows(count: int, top_k: int) -> list[Row]:
    """Rows as large as real ones: 16 positions, 30 tokens of query."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        ids = np.stack([rng.permutation(VOCABULARY)[:top_k] for _ in range(POSITIONS)]).astype(np.int32)
        steps = rng.exponential(0.3, (POSITIONS, top_k)).astype(np.float32) + 1e-3
        logits = np.float32(25) - np.cumsum(steps, axis=1, dtype=np.float32)
        rows.append(
            Row(
                example_id=f"{index:032x}",
                split="retain",
                query=f"query {index}",
                student_input_ids=rng.integers(0, VOCABULARY, 30, dtype=np.int32),
                response_ids=ids[:, 0],
                student_positions=np.arange(29, 29 + POSITIONS, dtype=np.int32),
                topk_ids=ids,
                topk_logits=logits,
            )
        )
    return rows


def write(folder: Path, rows: list[Row], shards: int, **changes: object) -> float:
    """Write the rows once per shard; returns positions per second. changes: to the fingerprint."""
    top_k = rows[0].topk_ids.shape[1]
    fingerprint = make_fingerprint(top_k=top_k, positions=POSITIONS, vocab_size=VOCABULARY, **changes)
    with CacheWriter(folder, Plan(fingerprint=fingerprint, rows=len(rows) * shards, shard_rows=len(rows))) as writer:
        began = time.perf_counter()
        for index in writer.missing:
            writer.write(index, rows)
        seconds = time.perf_counter() - began
        writer.publish(Prefix(text="", token_ids=[]), make_provenance(len(rows)), None, None)
    return len(rows) * shards * POSITIONS / seconds


def best(measure: Callable[[], float]) -> float:
    return max(measure() for _ in range(REPEATS))


def tables_per_second(cache: LogitCache) -> float:
    """Checked Arrow tables, as a whole pass takes them; positions per second."""
    began = time.perf_counter()
    for _ in cache.tables():
        pass
    return cache.manifest.positions / (time.perf_counter() - began)


def rows_per_second(cache: LogitCache) -> float:
    """Checked rows of numpy arrays, as training takes them; positions per second."""
    began = time.perf_counter()
    for _ in cache.rows():
        pass
    return cache.manifest.positions / (time.perf_counter() - began)


def peak_mb(folder: Path) -> float:
    """Peak memory of a process that opens the cache and reads all of it, in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_read_all, (folder,))


def _read_all(folder: Path) -> float:
    for _ in LogitCache(folder).rows():
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def real_sizes(folder: Path) -> Iterator[tuple[str, float]]:
    """Bytes per position of captures of the demo's queries by the real small model."""
    for dtype in ("bfloat16", "float32"):
        for top_k in (20, 128):
            cache = folder / f"real-{dtype}-{top_k}"
            options = (f"model.dtype={dtype}", f"teacher.top_k={top_k}", "teacher.positions=16")
            command = [sys.executable, "-m", "pipeline", "teacher-cache", "--config", "capitals", "--out", str(cache)]
            for option in options:
                command += ["--set", option]
            subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
            raw: dict[str, Any] = json.loads((cache / "manifest.json").read_bytes())
            size = sum(shard["bytes"] for shard in raw["shards"]) / raw["positions"]
            yield f"bytes per position, SmolLM2-135M, {dtype}, K = {top_k}", size


def main() -> None:
    """Measure, and print."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    lines: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for top_k in (20, 128):
            rows = made_up_rows(SHARD_ROWS, top_k)
            lines.append((f"positions written per second, K = {top_k}", write(folder / f"k{top_k}", rows, SHARDS)))
            cache = LogitCache(folder / f"k{top_k}")
            lines += [
                (f"positions read per second, K = {top_k}, tables", best(lambda cache=cache: tables_per_second(cache))),
                (f"positions read per second, K = {top_k}, rows", best(lambda cache=cache: rows_per_second(cache))),
            ]
        write(folder / "tenth", made_up_rows(SHARD_ROWS, 20), SHARDS // 10)
        small, large = peak_mb(folder / "tenth"), peak_mb(folder / "k20")
        lines += [("peak memory reading a tenth, MB", small), ("peak memory reading all of it, MB", large)]
        lines += real_sizes(folder)
    print(f"\n| {describe_hardware()}, one thread | |\n|---|---:|")
    for name, value in lines:
        print(f"| {name} | {value:,.0f} |" if value >= 1000 else f"| {name} | {value:.1f} |")


if __name__ == "__main__":
    main()
