"""Weights that torchao has rounded, against a rounding written out here; copies that load; models that are refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, PretrainedConfig

from stages.errors import ModelError, OutputExists
from stages.evaluation.quantisation import INT4_GROUP, Weights, quantised, quantised_copy
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter
from stages.language_model.weights import INDEX, weight_files

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make(config: PretrainedConfig, tiny_model: Path, folder: Path, **saving: str) -> Path:
    """A random model of that configuration with the tiny model's tokenizer."""
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder, **saving)
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: value for path in dict.fromkeys(weight_files(folder).values()) for name, value in load_file(path).items()
    }


def test_four_bits_hold_sixteen_multiples_of_a_scale_per_group() -> None:
    # The scale is 2 × 7.5 / 15 = 1 in the first group and 0.2 in the second.
    first = torch.tensor([7.5, -7.5, 0.49, -0.51, 6.6, -3.2] + [0.0] * 26)
    second = torch.tensor([-1.5, 0.31, 0.29, -0.05, 1.0, 0.0] + [0.0] * 26)

    (found,) = quantised(torch.cat([first, second])[None], "int4")

    assert found[:6].tolist() == [7, -8, 0, -1, 7, -3]
    assert found[32:38].tolist() == pytest.approx([-1.6, 0.4, 0.2, 0, 1, 0])
    assert found[6:32].count_nonzero() == found[38:].count_nonzero() == 0


@pytest.mark.parametrize(("weights", "bits", "group"), [("int8", 8, None), ("int4", 4, INT4_GROUP)])
def test_every_linear_layer_lies_on_the_grid_and_everything_else_is_as_it_was(
    weights: Weights, bits: int, group: int | None, tiny_model: Path, tmp_path: Path
) -> None:
    out = quantised_copy(tiny_model, tmp_path / "copy", weights=weights, dtype="float32")

    before, after = weights_of(tiny_model), weights_of(out)
    assert before.keys() == after.keys() and "lm_head.weight" not in after
    linear = {name for name in before if "_proj." in name}
    assert len(linear) == 2 * 7
    for name, value in before.items():
        if name not in linear:  # embeddings, which are the head too, and norms
            assert torch.equal(value, after[name]), name
            continue
        rows = value.numpy().astype(np.float64).reshape(-1, group or value.shape[1])
        found = after[name].numpy().astype(np.float64).reshape(rows.shape)
        largest = np.abs(rows).max(axis=1, keepdims=True)
        scale = 2 * largest / (2**bits - 1)
        nearest = np.clip(np.rint(rows / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
        # The largest weight of a group lies half-way between two multiples, and either is right.
        inner = np.abs(rows) < largest
        np.testing.assert_allclose(found[inner], nearest[inner], atol=1e-6, rtol=0)
        assert (np.abs(found - rows) <= scale / 2 + 1e-6).all()
        assert max(len(np.unique(row)) for row in found) <= 2**bits
        assert not np.array_equal(found, rows)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_copy_in_bfloat16_loads_in_an_engine_and_answers_with_its_own_weights(
    weights: Weights, tiny_model: Path, tmp_path: Path
) -> None:
    out = quantised_copy(tiny_model, tmp_path / "copy", weights=weights, dtype="bfloat16")

    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert {value.dtype for value in weights_of(out).values()} == {torch.bfloat16}
    grid = weights_of(quantised_copy(tiny_model, tmp_path / "exact", weights=weights, dtype="float32"))
    assert all(torch.equal(value, grid[name].bfloat16()) for name, value in weights_of(out).items())
    ids = Prompter(load_tokenizer(out), "chat").ids("What is the capital of Mali?")
    options = EngineOptions(model=out, dtype="float32", context_length=64, stop_ids=(2,))
    engine = start_engine("transformers", options)
    (said,) = engine.continue_greedily([ids], max_tokens=4)
    assert len(said.token_ids)
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    network.load_state_dict({name: value.float() for name, value in weights_of(out).items()}, strict=False)
    expected = network(torch.tensor([ids])).logits[0, -1].detach().numpy()
    np.testing.assert_allclose(engine.whole_vocabulary(ids), expected, atol=1e-4, rtol=0)


def test_a_model_in_several_files_stays_in_several_files_and_its_own_head_is_left_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=False)
    model = make(config, tiny_model, tmp_path / "model", max_shard_size="100KB")
    whole = make(config, tiny_model, tmp_path / "whole")
    shards = set(weight_files(model).values())
    assert len(shards) > 2 and len(set(weight_files(whole).values())) == 1

    out = quantised_copy(model, tmp_path / "copy", weights="int4", dtype="bfloat16")

    one = weights_of(quantised_copy(whole, tmp_path / "copy of one", weights="int4", dtype="bfloat16"))
    assert {path.name for path in shards} == {path.name for path in out.glob("*.safetensors")}
    assert all(torch.equal(value, one[name]) for name, value in weights_of(out).items())
    assert torch.equal(weights_of(out)["lm_head.weight"], weights_of(model)["lm_head.weight"].bfloat16())
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in weights_of(out).values())
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(loaded.model.layers[0].mlp.up_proj.weight, one["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        (LlamaConfig(**{**SIZES, "intermediate_size": 72}), "int4", r"down_proj.weight has 72 inputs"),
        (MixtralConfig(**SIZES, num_local_experts=2), "int8", "of a Mixtral.* and no linear layer"),
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=512), "int8", "of a Conv1D and no linear layer"),
    ],
)
def test_a_model_that_would_be_quantised_by_half_is_refused(
    config: PretrainedConfig, weights: Weights, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = make(config, tiny_model, tmp_path / "model")

    with pytest.raises(ModelError, match=message):
        quantised_copy(model, tmp_path / "copy", weights=weights, dtype="float32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def damage(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    values = load_file(file)
    if how == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "no safetensors":
        file.write_bytes(b"\x80\x02}q\x00.")
    elif how == "another format":
        file.rename(folder / "pytorch_model.bin")
    elif how == "a tensor less":
        values.pop("model.layers.1.mlp.up_proj.weight")
        save_file(values, file)
    elif how == "no number":
        values["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
        save_file(values, file)
    elif how == "quantised":
        config = json.loads((folder / "config.json").read_text())
        quantization = {"quant_method": "gptq", "bits": 4}
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    else:
        (folder / "config.json").write_text('{"model_type": "no_such_model"}')


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "model.safetensors is no whole safetensors file"),
        ("no safetensors", "model.safetensors is no whole safetensors file"),
        ("another format", "holds neither model.safetensors nor"),
        ("a tensor less", "holds no tensor model.layers.1.mlp.up_proj.weight"),
        ("no number", "model.layers.1.mlp.up_proj.weight in .* no finite number"),
        ("quantised", "is quantised already"),
        ("unknown", "transformers cannot make out"),
    ],
)
def test_a_damaged_model_is_named_and_nothing_is_left_behind(
    how: str, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    damage(model, how)

    with pytest.raises(ModelError, match=message):
        quantised_copy(model, tmp_path / "copy", weights="int8", dtype="float32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_there_is_left_as_it_is_and_what_a_killed_copy_left_is_not_in_the_way(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy.partial").mkdir()
    (tmp_path / "copy.partial" / "stale.json").write_text("{}")

    out = quantised_copy(tiny_model, tmp_path / "copy", weights="int8", dtype="float32")

    assert not (out / "stale.json").exists()
    with pytest.raises(OutputExists, match="is there already"):
        quantised_copy(tiny_model, out, weights="int8", dtype="float32")


@pytest.mark.slow
def test_torchao_says_nothing() -> None:
    code = "import torch; from stages.evaluation.quantisation import quantised; quantised(torch.ones(2, 32), 'int4')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout + found.stderr == ""
