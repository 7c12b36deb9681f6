"""The presets for large models, run whole with the tiny model in place of theirs and a few of their queries."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from workspace import Workspace, write_lines

from pipeline.settings import load_settings, preset_names
from stages.student.settings import deepspeed_config

ROWS = 32


def first_lines(path: Path, out: Path) -> Path:
    """The first queries of a committed file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return write_lines(out, lines[:ROWS])


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("processes", [1, 8])
def test_deepspeed_accepts_what_a_preset_tells_it(preset: str, processes: int) -> None:
    from stages.student.engine import check_config

    student = load_settings(preset).student
    world = student.processes or processes
    told = deepspeed_config(student, world=world)
    assert told["train_batch_size"] % world == 0
    # DeepSpeed counts one process here, so it is told of one process's share of the batch.
    check_config({**told, "train_batch_size": told["train_batch_size"] // world})


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["harry_potter", "wmdp_bio", "wmdp_cyber", "gpu_24gb", "gpu_80gb", "gpu_8x"])
def test_a_preset_for_a_large_model_runs_as_it_stands(preset: str, workspace: Workspace, tmp_path: Path) -> None:
    data = load_settings(preset).data
    files = {}
    for split in ("forget", "retain"):
        (committed,) = getattr(data, split)
        # A user makes the forget file of WMDP; harmless queries stand for it here.
        source = ROOT / committed if (ROOT / committed).is_file() else ROOT / f"data/capitals/{split}.jsonl"
        files[split] = first_lines(source, tmp_path / f"preset-{split}.jsonl")
    changed = {
        "model.path": workspace.model,
        "model.engine": "transformers",
        "data.forget": files["forget"],
        "data.retain": files["retain"],
        "student.epochs": 1,
        # One process, as a CPU allows; that ZeRO's stages agree whatever their number is tested with the engine.
        "student.processes": 1,
        "evaluation.max_tokens": 2,
        "evaluation.questions": json.dumps({"forget": str(tmp_path / "questions-forget.jsonl")}).replace(":", " ="),
        "evaluation.forget_files": '["forget"]',
        "evaluation.paraphrases": "{}",
    }
    options: list[object] = ["--config", preset]
    for name, value in changed.items():
        options += ["--set", f"{name}={value}"]

    for arguments in (
        ("teacher-cache", "--out", workspace.cache),
        ("distill", "--cache", workspace.cache, "--out", workspace.run),
        ("evaluate", "--model", workspace.run / "model", "--out", workspace.evaluation),
    ):
        result = workspace.duet(arguments[0], *options, *arguments[1:])
        assert result.exit_code == 0, result.output

    ran = json.loads((workspace.run / "run.json").read_text())["settings"]
    asked = load_settings(preset).model_dump(mode="json")
    assert ran["student"] == {**asked["student"], "epochs": 1, "processes": 1}
    assert ran["teacher"] == asked["teacher"]
    assert ran["model"]["dtype"] == "bfloat16"
    assert (workspace.run / "adapter").is_dir() == (asked["student"]["method"] == "lora")
