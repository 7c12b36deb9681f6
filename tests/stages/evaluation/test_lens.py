"""The lens on tiny models of several families: layers read by hand, and the last one against the model itself."""

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from stages.errors import ModelError
from stages.evaluation.lens import LENS_SCHEMA, lens, lens_scores
from stages.evaluation.questions import Question
from stages.language_model.folder import load_tokenizer
from stages.language_model.prompts import Prompter

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GEMMA2 = Gemma2Config(
    **SIZES,
    head_dim=32,
    query_pre_attn_scalar=32,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
    sliding_window=16,
)
WITHOUT_GROUPS = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
CONFIGS = {
    "llama, tied": LlamaConfig(**SIZES, head_dim=32, tie_word_embeddings=True),
    "llama, own head": LlamaConfig(**SIZES, head_dim=32, tie_word_embeddings=False),
    "gemma 2": GEMMA2,
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "cohere 2": Cohere2Config(**SIZES, logit_scale=0.25, sliding_window=16),
    "gpt-neox": GPTNeoXConfig(**WITHOUT_GROUPS),
}
QUESTIONS = {
    "forget": [
        Question(question="What is the capital of Mali?", answer="Bamako", answer_start="The capital of Mali is"),
        Question(question="Name the capital of Cuba.", answer="Havana"),
    ],
    "retain": [Question(question="How many days are there in a week, all told and counted?", answer="seven")],
}


def make(config: PretrainedConfig, tiny_model: Path, folder: Path) -> Path:
    """A random model of that configuration with the tiny model's tokenizer."""
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).to(torch.float32)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "norm" in name:  # as they are made, all norms are alike, and one might stand for another
                value += torch.rand_like(value)
    network.save_pretrained(folder)
    return folder


def put(model: Path, files: dict[str, list[Question]] = QUESTIONS, **how: object) -> pl.DataFrame:
    options: dict[str, object] = {"role": "student", "dtype": "float32", "batch_rows": 3, **how}
    return lens(model, Prompter(load_tokenizer(model), "chat"), files, **options)  # type: ignore[arg-type]


def prompt_and_token(model: Path, question: Question) -> tuple[list[int], int]:
    prompter = Prompter(load_tokenizer(model), "chat")
    prompt = prompter.ids(question.question, answer_start=question.answer_start)
    answer = f" {question.answer}" if question.answer_start else question.answer
    return prompt, prompter.tokenizer.encode(answer, add_special_tokens=False)[0]


def by_hand(network: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """[M, V]: logits after each layer of a Llama, layer by layer, one prompt, no padding."""
    taken: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0])) for layer in network.model.layers
    ]
    last = network.model.layers[-1].register_forward_hook(lambda *call: taken.append(call[2]))
    with torch.inference_mode():
        network(torch.tensor([ids]))
    for hook in (*hooks, last):
        hook.remove()
    states_MH = torch.stack([state[0, -1] for state in taken])
    spread_M1 = states_MH.pow(2).mean(dim=-1, keepdim=True)
    normed_MH = states_MH * (spread_M1 + network.config.rms_norm_eps).rsqrt() * network.model.norm.weight
    return normed_MH @ network.lm_head.weight.T


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_layer_is_the_model_itself_alone_and_in_a_padded_batch(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = make(CONFIGS[name], tiny_model, tmp_path / "model")

    found = put(model)

    assert found.schema == LENS_SCHEMA
    assert found["layer"].to_list() == 3 * [0, 1, 2, 3] and set(found["layers"]) == {3}
    network = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    last = found.filter(pl.col("layer") == 3)["probability"].to_list()
    for question, probability in zip([each for asked in QUESTIONS.values() for each in asked], last, strict=True):
        ids, token = prompt_and_token(model, question)
        with torch.inference_mode():
            shares_V = network(torch.tensor([ids])).logits[0, -1].softmax(dim=-1)
        assert probability == pytest.approx(float(shares_V[token]), rel=1e-3)
    alone = put(model, batch_rows=1)["probability"].to_list()
    assert found["probability"].to_list() == pytest.approx(alone, rel=1e-3)
    # Read off before and after the layers, the answers differ: no layer stands for another.
    assert found["probability"].n_unique() == found.height


@pytest.mark.parametrize("name", ["llama, tied", "llama, own head"])
def test_every_layer_goes_through_the_final_norm_and_the_head(name: str, tiny_model: Path, tmp_path: Path) -> None:
    model = make(CONFIGS[name], tiny_model, tmp_path / "model")

    found = put(model, {"forget": QUESTIONS["forget"][:1]})

    network = AutoModelForCausalLM.from_pretrained(model).eval()
    ids, token = prompt_and_token(model, QUESTIONS["forget"][0])
    expected = by_hand(network, ids).softmax(dim=-1)[:, token].tolist()
    assert found["probability"].to_list() == pytest.approx(expected, rel=1e-3)
    assert found["token"].to_list() == 4 * [load_tokenizer(model).decode([token])]


def test_embeddings_through_a_soft_capped_head_are_soft_capped(tiny_model: Path, tmp_path: Path) -> None:
    model = make(GEMMA2, tiny_model, tmp_path / "model")

    found = put(model, {"forget": QUESTIONS["forget"][:1]})

    network = AutoModelForCausalLM.from_pretrained(model).eval()
    ids, token = prompt_and_token(model, QUESTIONS["forget"][0])
    rows_VH = network.model.embed_tokens.weight
    state_H = rows_VH[ids[-1]] * 64**0.5  # Gemma scales its embeddings by √H
    normed_H = state_H * (state_H.pow(2).mean() + GEMMA2.rms_norm_eps).rsqrt() * (1 + network.model.norm.weight)
    capped_V = 3 * torch.tanh(normed_H @ rows_VH.T / 3)
    assert found["probability"][0] == pytest.approx(capped_V.softmax(dim=-1)[token].item(), rel=1e-3)


def test_bfloat16_is_near_float32_and_progress_is_told(tiny_model: Path) -> None:
    told: list[int] = []

    found = put(tiny_model, dtype="bfloat16", batch_rows=2, advance=told.append)

    exact = put(tiny_model)["probability"]
    assert (found["probability"] - exact).abs().max() < 0.05  # type: ignore[operator]
    assert told == [2, 1]


def test_a_head_behind_something_else_than_the_final_norm_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    # This OPT narrows its states between the two.
    config = OPTConfig(
        vocab_size=512, hidden_size=64, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32
    )
    model = make(config, tiny_model, tmp_path / "model")

    with pytest.raises(ModelError, match="between its final norm and its head"):
        put(model)


def test_a_lens_that_is_off_the_models_own_logits_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(CONFIGS["llama, tied"], tiny_model, tmp_path / "model")
    monkeypatch.setattr("stages.evaluation.lens._final_norm", lambda network: network.model.layers[-1].input_layernorm)

    with pytest.raises(ModelError, match="is off its own logits by"):
        put(model)


def test_a_decoder_without_a_known_norm_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.evaluation.lens.FINAL_NORMS", ("no_such_norm",))

    with pytest.raises(ModelError, match="LlamaForCausalLM has no norm behind its last layer"):
        put(tiny_model)


def test_scores_are_means_over_questions_per_layer_in_points() -> None:
    rows = [
        {"model": "base", "file": "forget", "number": number, "layer": layer, "layers": 1, "probability": probability}
        for number, shares in enumerate([(0.0, 0.4), (0.1, 0.8)])
        for layer, probability in enumerate(shares)
    ]

    found = lens_scores(pl.DataFrame(rows)).to_dicts()

    assert [(each["layer"], each["layers"], each["n"]) for each in found] == [(0, 1, 2), (1, 1, 2)]
    assert [each["mean"] for each in found] == pytest.approx([5, 60])
    assert (found[1]["low"], found[1]["high"]) == pytest.approx((40, 80))
