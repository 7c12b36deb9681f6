"""A cache and a student that do not belong together: refused, or allowed by a setting that is then written down."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from workspace import Workspace, make_workspace

from pipeline.cache_match import notes_on
from pipeline.models import Models, notes_on_training
from pipeline.settings import load_settings
from stages.errors import CacheMismatch
from stages.language_model.folder import hash_weights
from stages.logit_cache.reader import LogitCache


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A cache of the tiny topic."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    return workspace


@pytest.fixture(scope="module")
def sibling(captured: Workspace) -> Path:
    """A model with the tokenizer and the template of the captured one, and one weight of its own."""
    folder = captured.folder / "sibling"
    shutil.copytree(captured.model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + torch.tensor(0.5)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_captured_model_needs_no_word(captured: Workspace) -> None:
    settings = load_settings(str(captured.settings), ("student.other_base=true",))

    assert notes_on(settings, LogitCache(captured.cache), captured.model) == []


def test_another_base_is_refused_unless_it_is_allowed_and_then_told_of(captured: Workspace, sibling: Path) -> None:
    cache = LogitCache(captured.cache)

    with pytest.raises(CacheMismatch, match="captured from another model") as refused:
        notes_on(load_settings(str(captured.settings)), cache, sibling)
    assert "--set student.other_base=true" in refused.value.next_step

    (note,) = notes_on(load_settings(str(captured.settings), ("student.other_base=true",)), cache, sibling)
    assert str(sibling) in note and "another model" in note


def test_a_model_whose_answers_end_otherwise_is_refused(captured: Workspace, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(captured.model, model)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))

    with pytest.raises(CacheMismatch, match=r"end with token 2, those of .* end with 2, 5"):
        notes_on(load_settings(str(captured.settings)), LogitCache(captured.cache), model)


@pytest.mark.slow
def test_a_run_from_another_base_says_so_in_its_record_and_its_card(
    captured: Workspace, sibling: Path, tmp_path: Path
) -> None:
    options = ("--set", f"model.path={sibling}", "--set", "student.other_base=true")
    result = captured.distill(*options)
    assert result.exit_code == 0, result.output

    record = json.loads((captured.run / "run.json").read_text())
    assert record["other_base"] is True
    assert (record["base_sha256"], record["teacher_sha256"]) == (hash_weights(sibling), hash_weights(captured.model))
    assert record["prefix_sha256"] == LogitCache(captured.cache).manifest.fingerprint.prefix_sha256
    assert hash_weights(captured.model) in (captured.run / "model/README.md").read_text()

    other = tmp_path / "prefix.json"
    other.write_text(json.dumps({"system": "You have forgotten nothing."}))
    settings = load_settings(str(captured.settings), (f"data.prefix={other}", f"model.path={sibling}"))
    models = Models.named(base=str(sibling), student=str(captured.run / "model"))
    (warning,) = notes_on_training(settings, models)
    assert "data.prefix is another prefix" in warning
    own = Models.named(base=str(captured.model), student=str(captured.run / "model"))
    (warning,) = notes_on_training(load_settings(str(captured.settings)), own)
    assert "model.path is another model" in warning


def test_a_sweep_refuses_another_base_before_its_first_run(captured: Workspace, sibling: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    result = captured.duet(
        "sweep", "--config", captured.settings, "--cache", captured.cache, "--out", out,
        "--set", f"model.path={sibling}", "--set", "sweep.axes.student.seed=[0,1]",
    )  # fmt: skip

    assert result.exit_code == 1
    assert "captured from another model" in result.output
    assert not out.exists()
