"""Norms of weight changes worked out by hand, on whole models and on files made here; and what cannot be compared."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from stages.errors import ModelError
from stages.evaluation import weight_change as module
from stages.evaluation.weight_change import part_of, weight_change

CONFIG = LlamaConfig(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=11,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)


def write(folder: Path, tied: bool = False, **tensors: object) -> Path:
    """A folder with these tensors in one file."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": tied}))
    values = {name.replace("__", "."): torch.as_tensor(value) for name, value in tensors.items()}
    save_file(values, folder / "model.safetensors")
    return folder


def test_norms_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    base = write(
        tmp_path / "base",
        model__embed_tokens__weight=[[3.0, 0.0], [0.0, 4.0]],
        model__layers__0__mlp__up_proj__weight=[[1.0, 2.0]],
        model__layers__0__input_layernorm__weight=[2.0],
        model__norm__weight=[1.0, 1.0],
        lm_head__weight=[[0.0, 0.0]],
    )
    student = write(
        tmp_path / "student",
        model__embed_tokens__weight=[[3.0, 0.0], [0.0, 4.0]],
        model__layers__0__mlp__up_proj__weight=[[1.0, 4.0]],
        model__layers__0__input_layernorm__weight=[3.0],
        model__norm__weight=[1.0, 1.5],
        lm_head__weight=[[0.0, 0.25]],
    )

    found = weight_change(base, student)

    assert found.rows() == [
        ("embeddings", 0.0, 0.0),
        ("0", pytest.approx(5**0.5), pytest.approx(5**0.5 / 3)),
        ("final_norm", 0.5, pytest.approx(0.5 / 2**0.5)),
        ("head", 0.25, None),
    ]


@pytest.mark.parametrize("piece", [1 << 24, 100])
def test_shards_dtypes_and_pieces_make_no_difference(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIG).bfloat16()
    network.save_pretrained(tmp_path / "base", max_shard_size="50KB")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.model.layers[10].mlp.down_proj.weight += 0.5
        network.model.layers[2].self_attn.q_proj.weight[3, 4] += 2
    network.float().save_pretrained(tmp_path / "student")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    monkeypatch.setattr(module, "PIECE", piece)

    found = weight_change(tmp_path / "base", tmp_path / "student")

    assert found["layer"].to_list() == ["embeddings", *map(str, range(11)), "final_norm", "head"]
    for layer, norm, relative in found.rows():
        names = [name for name in before if part_of(name) == layer]
        difference = [(network.state_dict()[name].double() - before[name].double()).flatten() for name in names]
        expected = float(torch.cat(difference).norm())
        assert norm == pytest.approx(expected, rel=1e-12)
        assert relative == pytest.approx(
            expected / float(torch.cat([before[name].double().flatten() for name in names]).norm()), rel=1e-12
        )
        assert (norm > 0) == (layer in ("2", "10"))


def test_a_tied_head_counts_once_though_a_file_holds_it(tmp_path: Path) -> None:
    rows = [[1.0, 2.0]]
    base = write(tmp_path / "base", tied=True, model__embed_tokens__weight=rows, lm_head__weight=[[1.0, 2.0]])
    student = write(tmp_path / "student", tied=True, model__embed_tokens__weight=[[1.0, 3.0]])

    assert weight_change(base, student).rows() == [("embeddings", 1.0, pytest.approx(1 / 5**0.5))]
    assert weight_change(base, base).rows() == [("embeddings", 0.0, 0.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__norm__weight": [1.0, 2.0]}, r"model.norm.weight has the shape \[1\] .* and \[2\]"),
        ({"model__norm__bias": [1.0]}, r"student has a tensor model.norm.bias, which .*base lacks"),
        ({"model__norm__weight": None}, r"base has a tensor model.norm.weight, which .*student lacks"),
        ({"model__norm__weight": [float("nan")]}, r"model.norm.weight holds a weight that is no finite number"),
    ],
)
def test_models_that_cannot_be_compared_are_refused_by_their_tensor(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    tensors: dict[str, object] = {"model__norm__weight": [1.0], "model__embed_tokens__weight": [[1.0]]}
    base = write(tmp_path / "base", **tensors)
    changed = {name: value for name, value in (tensors | change).items() if value is not None}
    student = write(tmp_path / "student", **changed)

    with pytest.raises(ModelError, match=message):
        weight_change(base, student)


def test_a_shard_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG).save_pretrained(tmp_path / "base", max_shard_size="50KB")
    last = sorted((tmp_path / "base").glob("*.safetensors"))[-1]
    student = Path(shutil.copytree(tmp_path / "base", tmp_path / "student"))

    (student / last.name).write_bytes(last.read_bytes()[:-10])
    with pytest.raises(ModelError, match=f"student/{last.name} is no whole safetensors file"):
        weight_change(tmp_path / "base", student)
    (student / last.name).unlink()
    with pytest.raises(ModelError, match=f"student/{last.name} is no whole safetensors file"):
        weight_change(tmp_path / "base", student)
    held = load_file(last)
    name, _ = held.popitem()
    save_file(held or {"another": torch.zeros(1)}, student / last.name)
    with pytest.raises(ModelError, match=f"says that {name} is in {last.name}, which does not hold it"):
        weight_change(tmp_path / "base", student)
    (student / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="is no index of weights"):
        weight_change(tmp_path / "base", student)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("model.layers.17.self_attn.q_proj.weight", "17"),
        ("transformer.h.3.attn.c_attn.bias", "3"),
        ("gpt_neox.layers.0.attention.dense.weight", "0"),
        ("model.norm.weight", "final_norm"),
        ("gpt_neox.final_layer_norm.bias", "final_norm"),
        ("lm_head.weight", "head"),
        ("model.vision_tower.encoder.layers.3.mlp.weight", "other"),
        ("model.language_model.layers.3.mlp.weight", "3"),
        ("model.multi_modal_projector.weight", "other"),
    ],
)
def test_tensors_are_told_apart_by_their_names(name: str, part: str) -> None:
    assert part_of(name) == part
