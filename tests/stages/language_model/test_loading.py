"""A folder that transformers would fill up with random numbers, or cannot build, is refused before anything is loaded."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    Mamba2Config,
    MixtralConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from stages.errors import ModelError
from stages.language_model.checkpoint import check_model
from stages.language_model.folder import resolve_model
from stages.language_model.loading import attention_of, load_config, load_network

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=3),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, head_dim=16, **EXPERTS),
    "gpt_oss": GptOssConfig(**SIZES, head_dim=16, num_local_experts=2),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64),
    "bloom": BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=64),
    "gemma2": Gemma2Config(**SIZES, head_dim=16, attn_logit_softcapping=2.0),
    "gemma3": Gemma3Config(text_config={**SIZES, "head_dim": 16}, vision_config=VISION, mm_tokens_per_image=4),
    "mamba2": Mamba2Config(
        hidden_size=32, num_hidden_layers=2, vocab_size=64, num_heads=4, head_dim=16, n_groups=1, state_size=16
    ),
}
WEIGHTS = "model.safetensors"


def make(config: PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_model(folder)
    assert "\n" not in caught.value.found
    assert len(caught.value.found) < 600
    return caught.value.found


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make(CONFIGS["llama"], tmp_path / "llama")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, tokenizer included, that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def dropped(value: torch.Tensor) -> None:
    return None


def doubled(value: torch.Tensor) -> torch.Tensor:
    return torch.cat([value, value])


def in_integers(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.int8)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("damage", [dropped, doubled, in_integers])
def test_a_model_is_whole_or_refused_whichever_tensor_is_damaged(
    name: str, damage: Callable[[torch.Tensor], torch.Tensor | None], tmp_path: Path
) -> None:
    folder = make(CONFIGS[name], tmp_path)
    check_model(folder)
    weights = load_file(folder / WEIGHTS)

    # A dozen of all kinds: fifty times as many tensors fail in the same few ways.
    for tensor, value in list(weights.items())[:: len(weights) // 12]:
        changed = damage(value)
        kept = {each: other for each, other in weights.items() if each != tensor}
        save_file(kept | ({} if changed is None else {tensor: changed}), folder / WEIGHTS, {"format": "pt"})
        refusal(folder)


def test_missing_and_mis_shaped_tensors_are_named(llama: Path) -> None:
    weights = load_file(llama / WEIGHTS)
    norm = weights.pop("model.norm.weight")
    save_file(weights, llama / WEIGHTS, {"format": "pt"})
    assert refusal(llama) == f"The checkpoint in {llama} lacks model.norm.weight."

    save_file({**weights, "model.norm.weight": norm[:7]}, llama / WEIGHTS, {"format": "pt"})
    assert "has model.norm.weight in the shape [7], and its config asks for [32]" in refusal(llama)


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    folder = make(CONFIGS["mixtral"], tmp_path)
    weights = load_file(folder / WEIGHTS)
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    whole = weights.pop(name)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    assert f"lacks {name}" in refusal(folder)

    save_file({**weights, name: whole[:5]}, folder / WEIGHTS, {"format": "pt"})
    assert f"has {name} in the shape [5, 32], unlike its neighbours" in refusal(folder)


def test_gpt2_may_leave_out_the_prefix_of_its_names(tmp_path: Path) -> None:
    folder = make(CONFIGS["gpt2"], tmp_path)
    before = AutoModelForCausalLM.from_pretrained(folder)
    weights = {name.removeprefix("transformer."): value for name, value in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})

    check_model(folder)
    ids = torch.arange(9)[None]
    assert torch.equal(load_network(folder, "float32")(ids).logits, before(ids).logits)


def test_layers_that_the_config_does_not_name_are_refused(llama: Path) -> None:
    change_config(llama, num_hidden_layers=1)

    assert "of layers that its config does not name" in refusal(llama)


def test_what_a_network_computes_anew_may_lie_in_the_file(llama: Path) -> None:
    weights = load_file(llama / WEIGHTS)
    tables = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.embed_tokens.position_ids": torch.arange(8),
    }
    save_file(weights | tables, llama / WEIGHTS, {"format": "pt"})

    check_model(llama)


def test_nothing_is_loaded_from_a_pickle(llama: Path) -> None:
    weights = load_file(llama / WEIGHTS)
    (llama / WEIGHTS).unlink()
    torch.save(weights, llama / "pytorch_model.bin")
    save_file({"decoy": torch.zeros(1)}, llama / "decoy.safetensors")

    for read in (check_model, lambda folder: load_network(folder, "float32")):
        with pytest.raises(ModelError, match="holds neither"):
            read(llama)


def test_a_network_that_lacks_a_tensor_is_not_loaded_either(llama: Path) -> None:
    weights = load_file(llama / WEIGHTS)
    del weights["model.norm.weight"]
    save_file(weights, llama / WEIGHTS, {"format": "pt"})

    with pytest.raises(ModelError, match=r"lacks model\.norm\.weight"):
        load_network(llama, "float32")


def test_loading_takes_the_dtype_and_the_attention_that_fit(tmp_path: Path) -> None:
    folder = make(CONFIGS["gemma2"], tmp_path)
    network = load_network(folder, "bfloat16")

    assert {value.dtype for value in network.parameters()} == {torch.bfloat16}
    assert network.config._attn_implementation == attention_of(load_config(folder)) == "eager"
    assert attention_of(CONFIGS["llama"]) is None


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"temperature": "hot"}, {"top_k": -3, "num_beams": "x"}])
def test_odd_generation_settings_do_not_keep_a_model_from_loading(llama: Path, settings: dict[str, object]) -> None:
    (llama / "generation_config.json").write_text(json.dumps(settings))

    load_network(llama, "float32")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 0},
        {"hidden_size": -32},
        {"hidden_size": "32"},
        {"hidden_size": 10**12},
        {"num_attention_heads": 0},
        {"num_attention_heads": -1},
        {"num_key_value_heads": 0},
        {"head_dim": 0},
        {"head_dim": 10**12},
        {"vocab_size": 0},
        {"vocab_size": -1},
        {"vocab_size": 10**12},
        {"vocab_size": None},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -2},
        {"num_hidden_layers": 10**7},
        {"num_hidden_layers": 10**15},
        {"num_hidden_layers": 50},
        {"num_hidden_layers": "2"},
        {"num_labels": 10**12},
        {"model_type": "no_such_model"},
        {"model_type": None},
        {"model_type": []},
        {"model_type": "t5"},
        {"model_type": "bart"},
        {"model_type": "bert"},
        {"model_type": "clip"},
        {"model_type": "gpt2"},
        {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}},
        {"is_encoder_decoder": True},
        {"text_config": [1]},
        {"text_config": {}},
        {"rope_parameters": 5},
        {"hidden_act": "no_such_function"},
        {"dtype": "no_such_dtype"},
        {"dtype": "int8"},
        {"layer_types": ["x"]},
        {"pad_token_id": 10**9},
        {"quantization_config": {"quant_method": "fp8"}},
        {"transformers_weights": "pytorch_model.bin"},
        {"configuration_files": ["config.4.0.0.json"]},
        {"to_dict": 5},
        {"get_text_config": 5},
        {"attribute_map": 5},
    ],
    ids=str,
)
def test_a_broken_config_is_one_line_and_takes_no_time(copy: Path, change: dict[str, object]) -> None:
    change_config(copy, **change)
    (copy / "own.py").write_text("raise SystemExit('code of the folder ran')\n")
    began = time.monotonic()

    with pytest.raises(ModelError) as caught:
        resolve_model(str(copy))
    assert "\n" not in caught.value.found
    assert time.monotonic() - began < 10


DEEP = 100_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "5",
        '"text"',
        "{",
        '{"a": 1}',
        '{"a": ' + "[" * DEEP + "]" * DEEP + "}",
        '{"model_type": "llama", "a": ' + "[" * 900 + "]" * 900 + "}",
        '{"a": "' + "x" * (65 << 20) + '"}',
        '{"a": "\xff"}',
    ],
    ids=["empty", "list", "null", "number", "string", "cut", "no family", "deep", "half deep", "large", "no UTF-8"],
)
def test_a_config_that_is_no_object_is_one_line(copy: Path, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(ModelError) as caught:
        resolve_model(str(copy))
    assert "\n" not in caught.value.found


def test_a_config_that_is_a_folder_is_one_line(copy: Path) -> None:
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()

    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve_model(str(copy))


def test_a_config_cannot_ask_for_code_from_the_hub(llama: Path) -> None:
    change_config(llama, attn_implementation="somebody/attention", experts_implementation="somebody/experts")

    config = load_config(llama)
    assert (config._attn_implementation, config._experts_implementation) == (None, None)
    check_model(llama)


def test_a_model_of_70_billion_weights_is_checked_without_room_for_them(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.language_model import checkpoint
    from stages.language_model.weights import TensorHead

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    heads = {name: TensorHead(llama, "BF16", tuple(value.shape)) for name, value in network.state_dict().items()}
    config.save_pretrained(llama)
    monkeypatch.setattr(checkpoint, "tensor_heads", lambda folder: heads)

    check_model(llama)
    del heads["model.layers.79.mlp.up_proj.weight"]
    with pytest.raises(ModelError, match=r"lacks model\.layers\.79\.mlp\.up_proj\.weight"):
        check_model(llama)


def test_a_bias_that_the_config_leaves_out_is_refused(llama: Path) -> None:
    save_file(
        load_file(llama / WEIGHTS) | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
        llama / WEIGHTS,
        {"format": "pt"},
    )

    assert "q_proj.bias, and its config leaves that part of the layer out" in refusal(llama)


@pytest.mark.parametrize("differ", [True, False])
def test_tied_embeddings_may_be_stored_twice_but_not_two_of_them(tmp_path: Path, differ: bool) -> None:
    folder = make(CONFIGS["tied"], tmp_path / "tied")
    weights = load_file(folder / WEIGHTS)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + (1.0 if differ else 0.0)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})

    if differ:
        assert "lm_head.weight and model.embed_tokens.weight, which differ" in refusal(folder)
    else:
        check_model(folder)


def test_a_config_that_wants_bare_tuples_makes_no_difference(llama: Path) -> None:
    ids = torch.arange(9)[None]
    before = load_network(llama, "float32")(ids).logits

    change_config(llama, return_dict=False)

    assert torch.equal(load_network(llama, "float32")(ids).logits, before)
