"""The exported folder: whole, ordinary, and written over by nothing half-made; its model card; and the launcher."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.files import TEMPORARY_SUFFIX
from stages.language_model.folder import load_tokenizer
from stages.student.card import NOT_YET, unlearned_card, write_scores
from stages.student.export import export_model
from stages.student.launch import is_launched, launch, process_count
from stages.student.settings import StudentSettings

CARD = unlearned_card(base="owner/small", cache_id="c0ffee", settings=StudentSettings(epochs=3), duet_version="1.2")


def export(tiny_model: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Export the tiny model with every weight one greater; returns those weights."""
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    weights = {name: value + 1 for name, value in network.state_dict().items()}
    export_model(network, weights, load_tokenizer(tiny_model), tiny_model, folder, CARD)
    return weights


def test_an_export_is_a_folder_that_transformers_loads(tiny_model: Path, tmp_path: Path) -> None:
    weights = export(tiny_model, tmp_path / "model")

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    before = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.chat_template == before.chat_template
    assert tokenizer("Why is the sky blue?").input_ids == before("Why is the sky blue?").input_ids
    kept = [json.loads((each / "generation_config.json").read_text()) for each in (tmp_path / "model", tiny_model)]
    assert kept[0] == kept[1]
    assert not list(tmp_path.glob(f"*{TEMPORARY_SUFFIX}"))
    assert list((tmp_path / "model").glob("*.safetensors"))
    assert not list((tmp_path / "model").glob("*.bin"))


def test_what_an_unfinished_export_left_is_replaced_whole(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("model", f"model{TEMPORARY_SUFFIX}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stray.safetensors").write_bytes(b"half")

    export(tiny_model, tmp_path / "model")

    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model/stray.safetensors").exists()


def test_an_export_that_fails_leaves_the_earlier_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = export(tiny_model, tmp_path / "model")

    def full_disk(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export(tiny_model, tmp_path / "model")

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_the_card_names_base_cache_and_settings(tmp_path: Path) -> None:
    assert CARD.startswith("---\nbase_model: owner/small\n")
    for part in ("`c0ffee`", "| epochs | 3 |", "duet 1.2", "Method: every weight trained", NOT_YET):
        assert part in CARD


def test_scores_replace_what_stood_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")

    assert write_scores(tmp_path, "| first |\n")
    assert write_scores(tmp_path, "| second |\n")

    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text == CARD.replace(NOT_YET, "| second |")


@pytest.mark.parametrize("text", [None, "# Somebody's own card\n", "<!-- scores: begin -->\nno end"])
def test_a_card_without_the_section_is_left_alone(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text, encoding="utf-8")

    assert not write_scores(tmp_path, "| scores |")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ([text] if text is not None else [])


def test_a_launchers_process_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not is_launched()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_launched()


def test_processes_are_as_many_as_asked_for() -> None:
    assert process_count(3) == 3
    assert process_count(None) >= 1


@pytest.mark.slow
def test_a_process_that_fails_fails_the_launch(tmp_path: Path) -> None:
    assert launch(["no-such-command"], 2, stop_file=tmp_path / "stop") != 0
