"""The whole pipeline on the real small model with the engines of this machine: few rows, every part real.

Stage one, killed in the middle and started again; stage two, one epoch; an evaluation; an answer in a terminal.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM
from workspace import write_lines

from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.reader import LogitCache

pytestmark = pytest.mark.slow
ROWS_PER_SPLIT = 12
SHARD_ROWS = 4


def duet(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own, as a user does."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False)


def environment(folder: Path) -> dict[str, str]:
    """A user's environment: no hub, and none of what a training inside the test process left in its own."""
    launcher = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    own = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**own, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}


def options(folder: Path) -> tuple[object, ...]:
    return ("--config", folder / "topic.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """The first rows of the demo's own data, and settings to match."""
    folder = tmp_path_factory.mktemp("real")
    for split in ("forget", "retain"):
        lines = (ROOT / f"data/capitals/{split}.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS_PER_SPLIT]
        write_lines(folder / f"{split}.jsonl", [json.loads(line) for line in lines])
        lines = (ROOT / f"data/capitals/eval/{split}.jsonl").read_text(encoding="utf-8").splitlines()[:4]
        write_lines(folder / f"questions-{split}.jsonl", [json.loads(line) for line in lines])
    (folder / "topic.toml").write_text(
        f"""
[model]
path = "{smollm2}"

[data]
forget = "{folder}/forget.jsonl"
retain = "{folder}/retain.jsonl"
prefix = "{ROOT}/data/capitals/prefix.json"

[teacher]
top_k = 20
positions = 2
shard_rows = {SHARD_ROWS}

[student]
learning_rate = 5e-5
epochs = 1
batch_rows = 8
zero_stage = 1
processes = 2

[evaluation]
max_tokens = 8

[evaluation.questions]
forget = "{folder}/questions-forget.jsonl"
retain = "{folder}/questions-retain.jsonl"
"""
    )
    return folder


@pytest.fixture(scope="module")
def cache(folder: Path) -> LogitCache:
    """Captured by a run that was killed after its first shard, and by the same command given again."""
    killed = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "teacher-cache", *map(str, options(folder)), "--out", str(folder / "cache")],
        cwd=ROOT, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        first = wait_for_a_shard(folder / "cache", killed)
    finally:
        # With its engine's own processes, as an out-of-memory killer or a scheduler does.
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not (folder / "cache/manifest.json").exists()
    written = {path: path.stat().st_mtime_ns for path in first}

    again = duet("teacher-cache", *options(folder), "--out", folder / "cache", folder=folder)

    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written
    return LogitCache(folder / "cache")


def wait_for_a_shard(cache: Path, capture: subprocess.Popen[bytes]) -> list[Path]:
    """Return once a shard is whole."""
    deadline = time.monotonic() + 300
    while not (shards := list(cache.rglob("*.parquet"))):
        assert capture.poll() is None, "the capture ended before it had written a shard"
        assert time.monotonic() < deadline, "no shard after five minutes"
        time.sleep(0.02)
    return shards


@pytest.fixture(scope="module")
def run(folder: Path, cache: LogitCache) -> Path:
    done = duet("distill", *options(folder), "--cache", cache.folder, "--out", folder / "run", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_capture_that_was_killed_is_the_capture_that_was_not(folder: Path, cache: LogitCache) -> None:
    whole = duet("teacher-cache", *options(folder), "--out", folder / "whole", folder=folder)

    assert whole.returncode == 0, whole.stderr
    assert LogitCache(folder / "whole").manifest.cache_id == cache.manifest.cache_id
    for shard in cache.manifest.shards:
        one, other = (each / SHARDS / shard.name for each in (folder / "whole", cache.folder))
        assert one.read_bytes() == other.read_bytes()


def test_the_teacher_says_again_what_the_cache_holds(folder: Path, cache: LogitCache) -> None:
    found = duet("cache", "verify", cache.folder, "--rescore", 4, "--json", folder=folder)

    assert found.returncode == 0, found.stdout + found.stderr


def test_the_plan_foretells_the_size_of_what_came_out(folder: Path, cache: LogitCache) -> None:
    told = duet("teacher-cache", *options(folder), "--out", folder / "nothing", "--plan", folder=folder)

    assert told.returncode == 0, told.stderr
    lines = dict(line.split(maxsplit=1) for line in told.stdout.splitlines() if line.strip())
    expected = int(lines["bytes"].removeprefix("about ").split()[0].replace(",", ""))
    assert expected == pytest.approx(sum(shard.bytes for shard in cache.manifest.shards), rel=0.15)
    assert not (folder / "nothing").exists()


def test_two_processes_bring_the_student_nearer_to_its_teacher(run: Path) -> None:
    metrics = pl.read_ndjson(run / "metrics.jsonl")

    assert metrics["step"].to_list() == [0, 1, 2]
    assert metrics["loss"][2] < metrics["loss"][0]
    assert json.loads((run / "run.json").read_text())["processes"] == 2


def test_the_exported_model_loads_and_differs_from_the_base(run: Path, smollm2: Path) -> None:
    student = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    base = AutoModelForCausalLM.from_pretrained(smollm2).state_dict()

    assert student.keys() == base.keys()
    assert any(not torch.equal(student[name], base[name].to(student[name].dtype)) for name in base)


def test_the_evaluation_scores_base_teacher_and_student(folder: Path, run: Path) -> None:
    out = folder / "evaluation.json"
    done = duet("evaluate", *options(folder), "--model", run / "model", "--out", out, folder=folder)

    assert done.returncode == 0, done.stderr
    answers = pl.DataFrame(json.loads(out.read_text())["answers"])
    assert answers.filter(pl.col("attack").is_null()).group_by("model").len().sort("model").rows() == [
        ("base", 8),
        ("student", 8),
        ("teacher", 8),
    ]
    # The real teacher behind the real prefix declines; the base has no reason to.
    asked = answers.filter(pl.col("attack").is_null() & (pl.col("file") == "forget"))
    declined = {model: asked.filter(pl.col("model") == model)["refused"].sum() for model in ("base", "teacher")}
    assert declined["base"] == 0
    assert declined["teacher"] >= 2


def test_the_unlearned_model_answers_in_a_terminal(folder: Path, run: Path) -> None:
    said = duet("ask", "--model", run / "model", "How many days does a week have?", folder=folder)

    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
