"""`make bench-cache`: size, speed, memory, capture and faults of the logit cache on this machine, as one Markdown page.

Speeds of reading and writing count the processor time of one core, since other work on the machine does not change it;
captures are wall time, the variants in turn in one process. The smallest of several measurements counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench_capture import every_fourth_query
from bench_faults import fault_lines
from bench_rows import POSITIONS, SEED, made_up_rows, write
from conftest import ROOT

from stages.language_model.hardware import describe_hardware
from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.reader import LogitCache

SHARD_ROWS = 1250  # 20 000 positions per shard
REPEATS = 5
CAPTURED_POSITIONS = (1, 8)
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/stages/logit_cache'}"}
Line = tuple[str, str]

READ_ALL = """
import re, sys
from pathlib import Path
from stages.logit_cache.reader import LogitCache

opened = LogitCache(Path(sys.argv[1]))
opened.check_every_row()
for row in opened.rows():
    pass
# Not ru_maxrss: that begins with the memory of the process which started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds, the least of a few runs."""
    least = float("inf")
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        least = min(least, time.process_time() - began)
    return least


def exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def read_bare(cache: LogitCache) -> None:
    """What pyarrow alone does, without a check: the bound that the format sets."""
    for shard in cache.manifest.shards:
        with pq.ParquetFile(cache.folder / SHARDS / shard.name) as file:
            for group in range(file.metadata.num_row_groups):
                file.read_row_group(group)


def speed_lines(folder: Path) -> Iterator[Line]:
    """Writing and reading at both sizes of K."""
    for top_k in (20, 128):
        name, shards = folder / f"k{top_k}", 3
        written = write(name, made_up_rows(SHARD_ROWS, top_k), shards)
        cache = LogitCache(name)
        ways: dict[str, float] = {
            "written, hashed and read back": written,
            "read and checked, as Arrow tables": seconds_of(lambda cache=cache: exhaust(cache.tables())),  # type: ignore[misc]
            "read and checked, as rows of arrays": seconds_of(lambda cache=cache: exhaust(cache.rows())),  # type: ignore[misc]
            "decoded by pyarrow alone, unchecked": seconds_of(lambda cache=cache: read_bare(cache)),  # type: ignore[misc]
        }
        for way, seconds in ways.items():
            manifest = cache.manifest
            rate = f"{manifest.positions / seconds:,.0f} positions, {manifest.rows / seconds:,.0f} rows"
            yield f"K = {top_k}: {way}, per second of one core", rate


def memory_lines(folder: Path) -> Iterator[Line]:
    """Peak memory of a process that opens a cache, checks it and reads it."""
    rows, peaks = made_up_rows(SHARD_ROWS, 20), []
    for shards in (5, 50):
        name = folder / f"memory{shards}"
        write(name, rows, shards)
        ended = subprocess.run(
            [sys.executable, "-c", READ_ALL, name], env=ENVIRONMENT, check=True, capture_output=True, text=True
        )
        peaks.append(float(ended.stdout))
        yield f"peak memory, reading {shards * SHARD_ROWS * POSITIONS:,} positions, K = 20", f"{peaks[-1]:.1f} MB"
    yield "growth over ten times the positions", f"{peaks[1] / peaks[0] - 1:+.1%}"


def size_lines(folder: Path) -> Iterator[Line]:
    """Bytes per position of captures by the real small model; a slice is byte for byte the capture at its K."""
    queries = every_fourth_query(folder)
    for dtype in ("float32", "bfloat16"):
        large, small = folder / f"{dtype}-128", folder / f"{dtype}-20"
        options = (*queries, f"model.dtype={dtype}", "teacher.top_k=128", "teacher.positions=16")
        settings = [part for option in options for part in ("--set", option)]
        duet("teacher-cache", "--config", "capitals", *settings, "--out", large)
        duet("cache", "slice", large, "--k", "20", "--out", small)
        for top_k, cache in ((20, small), (128, large)):
            raw: dict[str, Any] = json.loads((cache / "manifest.json").read_bytes())
            size = sum(shard["bytes"] for shard in raw["shards"]) / raw["positions"]
            yield f"{dtype} teacher, K = {top_k}: bytes per position, everything included", f"{size:.1f}"


def duet(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


def capture_lines() -> Iterator[Line]:
    """Wall time of whole captures against generation alone; a process of its own, since an engine keeps its memory."""
    ended = subprocess.run(
        [sys.executable, Path(__file__).with_name("bench_capture.py"), *map(str, CAPTURED_POSITIONS)],
        env=ENVIRONMENT, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for each in json.loads(ended.stdout.splitlines()[-1]):
        yield each["name"], each["value"]


def page(sections: dict[str, list[Line]]) -> str:
    """The Markdown page."""
    parts = [
        "# The logit cache, measured\n",
        f"Written by `make bench-cache` on {describe_hardware()}, seed {SEED}. Sizes and captures: SmolLM2-135M-Instruct, the "
        "queries and the prefix of\n`capitals`. Speeds and memory: made-up rows of 16 positions and 30 tokens, "
        f"{SHARD_ROWS} rows per shard, in processor time of one core.\n",
    ]
    for title, lines in sections.items():
        parts.append(f"\n| {title} | |\n|---|---:|\n" + "".join(f"| {name} | {value} |\n" for name, value in lines))
    return "\n".join(parts[:2]) + "".join(parts[2:])


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file to write, too.")
    parser.add_argument("--only", nargs="+", default=["speed", "memory", "faults", "capture", "size"], help="Sections.")
    chosen = parser.parse_args()
    out = chosen.out
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    sections: dict[str, list[Line]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measures = {
            "speed": speed_lines(folder),
            "memory": memory_lines(folder),
            "faults": fault_lines(folder, SEED),
            "capture, a quarter of the demo's queries, float32": capture_lines(),
            "size, the same queries, 16 positions": size_lines(folder),
        }
        for title, lines in measures.items():
            if title.split(",")[0] not in chosen.only:
                continue
            for line in lines:
                print(f"{title}: {line[0]}: {line[1]}", file=sys.stderr)
                sections.setdefault(title, []).append(line)
            if out:
                out.write_text(page(sections), encoding="utf-8")
    print(page(sections))


if __name__ == "__main__":
    main()
