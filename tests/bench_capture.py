"""The captures of `make bench-cache`: whole captures and bare generation in turn, in one process. Prints JSON.

Arguments: the numbers of positions. Generation asks for the same tokens of the same prompts in the same shards, without
candidates; a capture asks for them, too, and writes, hashes and reads back the shards. Nothing is kept between two runs.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.console import quieten_libraries
from pipeline.settings import load_settings
from pipeline.teacher_cache import Prepared, prepare
from stages.language_model.engine import Engine, EngineName, start_engine
from stages.logit_cache.writer import CacheWriter
from stages.teacher.capture import capture

REPEATS = 2
SHARE = 4  # every fourth query of the demo


def every_fourth_query(folder: Path) -> list[str]:
    """Settings that name files of every fourth query of the demo, which are written into the folder."""
    named = []
    for split in ("forget", "retain"):
        lines = Path(f"data/capitals/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{split}.jsonl").write_text("\n".join(lines[::SHARE]) + "\n", encoding="utf-8")
        named.append(f"data.{split}={folder}/{split}.jsonl")
    return named


def generate(engine: Engine, prepared: Prepared) -> None:
    """The tokens alone, shard by shard."""
    for index in range(prepared.plan.shard_count):
        prompts = [prepared.prompts[row].teacher_ids for row in prepared.plan.shard_range(index)]
        engine.continue_greedily(prompts, max_tokens=prepared.plan.fingerprint.positions)


def captured(engine: Engine, prepared: Prepared) -> None:
    """The tokens, their candidates, and the shards."""
    with tempfile.TemporaryDirectory() as folder, CacheWriter(Path(folder) / "cache", prepared.plan) as writer:
        capture(engine, prepared.prompts, writer)


def seconds_of(engine: Engine, work: Callable[[Engine, Prepared], None], prepared: Prepared) -> float:
    """Wall time with an empty prefix cache."""
    if engine.name == "vllm":
        engine._llm.reset_prefix_cache()  # type: ignore[attr-defined]
    began = time.perf_counter()
    work(engine, prepared)
    return time.perf_counter() - began


def main() -> None:
    """Measure every variant in turn, so that other work on the machine meets all of them."""
    quieten_libraries()
    counts = [int(each) for each in sys.argv[1:]]
    folder = tempfile.TemporaryDirectory()
    queries = every_fourth_query(Path(folder.name))

    def plan_for(positions: int, top_k: int = 20) -> Prepared:
        size = (f"teacher.positions={positions}", f"teacher.top_k={top_k}", "teacher.shard_rows=32")
        return prepare(load_settings("capitals", (*queries, *size)))

    lines: list[dict[str, Any]] = []
    engines: tuple[EngineName, ...] = ("vllm", "transformers")
    started = {name: start_engine(name, plan_for(max(counts)).options) for name in engines}
    for positions in counts:
        small, large = plan_for(positions), plan_for(positions, 128)
        generate(started["vllm"], small)  # the first call is slower
        times: dict[str, list[float]] = {"off": [], "20": [], "128": []}
        for _ in range(REPEATS):
            times["off"].append(seconds_of(started["vllm"], generate, small))
            times["20"].append(seconds_of(started["vllm"], captured, small))
            times["128"].append(seconds_of(started["vllm"], captured, large))
        off, k20, k128 = (min(times[each]) for each in ("off", "20", "128"))
        slow = seconds_of(started["transformers"], captured, small)
        at = f"{positions} position{'s' if positions > 1 else ''}"
        lines += [
            {"name": f"{at}: vLLM, generation alone", "value": f"{off:.1f} s"},
            {"name": f"{at}: vLLM, captured with K = 20", "value": f"{k20:.1f} s, {k20 / off:.2f} ×"},
            {"name": f"{at}: vLLM, captured with K = 128", "value": f"{k128:.1f} s, {k128 / off:.2f} ×"},
            {"name": f"{at}: transformers, captured with K = 20", "value": f"{slow:.1f} s, {slow / k20:.2f} × vLLM's"},
        ]
    folder.cleanup()
    print(json.dumps(lines))


if __name__ == "__main__":
    main()
