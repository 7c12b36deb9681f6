"""The exported folder: whole, ordinary, and written over by nothing half-made; its model card; and the launcher."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_files import files_up_to
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3Config

from stages.errors import ModelError, OutputUnwritable, TrainingError
from stages.files import TEMPORARY_SUFFIX
from stages.language_model.checkpoint import check_model
from stages.language_model.folder import end_of_turn_ids, load_tokenizer
from stages.language_model.loading import load_network
from stages.student.card import NOT_YET, unlearned_card, write_scores
from stages.student.export import check_export, export_model
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
    with pytest.raises(TrainingError, match="No space left"):
        export(tiny_model, tmp_path / "model")

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


def test_generation_settings_that_transformers_would_not_write_are_carried_over_byte_for_byte(
    tiny_model: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    settings = b'{"temperature": 0.6, "top_p":0.9,\n "eos_token_id": [2, 7], "of our own": {"a": 1}}\n'
    (base / "generation_config.json").write_bytes(settings)

    check_export(base, tmp_path / "run", dtype="float32")
    export(base, tmp_path / "model")

    assert (tmp_path / "model/generation_config.json").read_bytes() == settings
    assert end_of_turn_ids(tmp_path / "model", load_tokenizer(tmp_path / "model")) == [2, 7]


def test_a_base_without_generation_settings_gets_none(tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "generation_config.json").unlink()

    export(base, tmp_path / "model")

    assert not (tmp_path / "model/generation_config.json").exists()
    tokenizer = load_tokenizer(base)
    assert end_of_turn_ids(tmp_path / "model", tokenizer) == end_of_turn_ids(base, tokenizer) == [2]


@pytest.mark.parametrize("legacy", [True, False])
def test_the_chat_template_is_the_bases(legacy: bool, tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    template = "{{ 'Ask: ' + messages[-1]['content'] }}"
    if legacy:
        (base / "chat_template.jinja").unlink()
        config = json.loads((base / "tokenizer_config.json").read_text())
        (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    else:
        (base / "chat_template.jinja").write_text(template)

    export(base, tmp_path / "model")

    assert load_tokenizer(tmp_path / "model").chat_template == template
    assert (tmp_path / "model/chat_template.jinja").exists() is not legacy


def test_files_of_a_processor_go_with_the_model_and_old_indexes_do_not(tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    for name in ("preprocessor_config.json", "processor_config.json", "params.json"):
        (base / name).write_text('{"image_size":  28}')
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/tool_use.jinja").write_text("tools")

    export(base, tmp_path / "model")

    assert (tmp_path / "model/preprocessor_config.json").read_text() == '{"image_size":  28}'
    assert (tmp_path / "model/processor_config.json").exists()
    assert (tmp_path / "model/additional_chat_templates/tool_use.jinja").read_text() == "tools"
    assert not (tmp_path / "model/params.json").exists()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_all_files_have_the_mode_that_the_umask_gives(mask: int, mode: int, tiny_model: Path, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        export(tiny_model, tmp_path / "model")
    finally:
        os.umask(before)

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {mode}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_an_export_computes_what_the_network_computes(
    tied: bool, dtype: torch.dtype, tiny_model: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=tied)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    network = load_network(base, str(dtype).removeprefix("torch."))
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}

    export_model(network, weights, load_tokenizer(base), base, tmp_path / "model", CARD)

    check_model(tmp_path / "model")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert found.dtype == dtype
    ids = torch.arange(20)[None]
    assert torch.equal(found(ids).logits, network(ids).logits)
    assert ("lm_head.weight" in load_file(tmp_path / "model/model.safetensors")) is not tied


def test_a_model_that_also_sees_is_exported_whole(tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors")))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**sizes, "vocab_size": 512, "num_key_value_heads": 1, "head_dim": 16},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    network = load_network(base, "float32")
    check_export(base, tmp_path / "run", dtype="float32")

    export_model(network, network.state_dict(), load_tokenizer(base), base, tmp_path / "model", CARD)

    check_model(tmp_path / "model")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_check_of_an_export_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    check_export(tiny_model, tmp_path / "a/run", dtype="float32")
    assert not (tmp_path / "a/run").exists()

    (tmp_path / "run").mkdir()
    (tmp_path / "run/plan.json").touch()
    check_export(tiny_model, tmp_path / "run", dtype="float32")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plan.json"]


def test_a_disk_without_room_for_the_weights_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    with pytest.raises(TrainingError, match=r"takes [\d,]+ bytes, and the disk of .* has 1,000 left"):
        check_export(tiny_model, tmp_path / "run", dtype="float32")


def test_a_run_that_cannot_be_written_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutputUnwritable, match="file/run cannot be made"):
        check_export(tiny_model, tmp_path / "file/run", dtype="float32")


def test_another_tokenizer_than_the_students_is_not_exported(tiny_model: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_tokens(["capital"])

    with pytest.raises(ModelError, match="do not give the student's tokenizer"):
        export_model(network, network.state_dict(), tokenizer, tiny_model, tmp_path / "model", CARD)
    assert not (tmp_path / "model").exists()


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


def test_a_disk_that_fills_up_in_the_export_is_one_message_and_takes_no_room(tiny_model: Path, tmp_path: Path) -> None:
    with (
        files_up_to(100_000),
        pytest.raises(TrainingError, match=r"could not be written to .*File too large"),
    ):
        export(tiny_model, tmp_path / "model")

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_before_the_training_is_not_the_models_fault(tiny_model: Path, tmp_path: Path) -> None:
    with files_up_to(100), pytest.raises(TrainingError, match="File too large") as refused:
        check_export(tiny_model, tmp_path / "run", dtype="float32")

    assert refused.value.next_step == "Make room, or name another folder with --out (make: RUN=…)."
    assert list(tmp_path.iterdir()) == []
