"""The architectures of the conformance matrix: tiny random models that keep what is peculiar to each.

Weights are drawn wide, so that logits are of the order of ten and differ from position to position. Heads have 32 numbers, the
fewest for which vLLM has attention kernels on the CPU. Windows hold 8 tokens, and prompts are longer.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import PretrainedConfig

VOCABULARY = 512
WINDOW = 8
IDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
SMALL: dict[str, Any] = {
    **IDS,
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
# One head of keys and values for two of queries.
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 1}
# Layers in turn: with a window, without.
MIXED = ["sliding_attention", "full_attention"] * 2


def _config(name: str, sizes: dict[str, Any], **more: Any) -> Callable[[], PretrainedConfig]:
    return lambda: getattr(transformers, name)(**{**sizes, **more})


def _gemma3_with_vision() -> PretrainedConfig:
    text = {**GROUPED, "num_hidden_layers": 4, "head_dim": 32, "layer_types": MIXED, "sliding_window": WINDOW}
    text["query_pre_attn_scalar"] = 32
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    return transformers.Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
        eos_token_id=2,
        initializer_range=0.2,
    )


CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "Llama": _config("LlamaConfig", GROUPED, head_dim=32, tie_word_embeddings=True),
    "Mistral, sliding window": _config("MistralConfig", GROUPED, head_dim=32, sliding_window=WINDOW),
    "Qwen2": _config("Qwen2Config", GROUPED),
    "Qwen3": _config("Qwen3Config", GROUPED, head_dim=32),
    "Qwen3-Next": _config(
        "Qwen3NextConfig",
        GROUPED,
        num_hidden_layers=4,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        norm_topk_prob=True,
    ),
    "Gemma": _config("GemmaConfig", GROUPED, head_dim=32),
    "Gemma 2": _config(
        "Gemma2Config",
        GROUPED,
        num_hidden_layers=4,
        head_dim=32,
        query_pre_attn_scalar=32,
        attn_logit_softcapping=20.0,
        final_logit_softcapping=15.0,
        sliding_window=WINDOW,
    ),
    "Gemma 3": _config(
        "Gemma3TextConfig",
        GROUPED,
        num_hidden_layers=4,
        head_dim=32,
        query_pre_attn_scalar=32,
        layer_types=MIXED,
        sliding_window=WINDOW,
    ),
    "Gemma 3 with vision": _gemma3_with_vision,
    "Phi-3": _config("Phi3Config", GROUPED, sliding_window=None),
    "GPT-2": _config(
        "GPT2Config", {**IDS, "vocab_size": VOCABULARY}, n_embd=64, n_layer=2, n_head=2, initializer_range=0.2
    ),
    "GPT-NeoX": _config("GPTNeoXConfig", SMALL),
    "BLOOM": _config(
        "BloomConfig", {**IDS, "vocab_size": VOCABULARY}, hidden_size=64, n_layer=2, n_head=2, initializer_range=0.2
    ),
    "Falcon": _config("FalconConfig", SMALL, multi_query=True, new_decoder_architecture=False, alibi=False, bias=False),
    "Falcon, alibi": _config(
        "FalconConfig", SMALL, multi_query=False, new_decoder_architecture=False, alibi=True, bias=True
    ),
    "OLMo-2": _config("Olmo2Config", GROUPED),
    "SmolLM3": _config("SmolLM3Config", {**GROUPED, "num_hidden_layers": 4}, no_rope_layer_interval=2),
    "Granite 4 hybrid": _config(
        "GraniteMoeHybridConfig",
        GROUPED,
        num_hidden_layers=4,
        layer_types=["mamba", "attention"] * 2,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=64,
        mamba_n_heads=4,
        mamba_d_head=32,
        mamba_d_state=16,
        mamba_n_groups=1,
        mamba_chunk_size=8,
        position_embedding_type=None,
    ),
    "LFM2": _config(
        "Lfm2Config",
        GROUPED,
        num_hidden_layers=4,
        layer_types=["conv", "full_attention"] * 2,
        block_auto_adjust_ff_dim=False,
        conv_L_cache=3,
        # As the published configs have them; vLLM reads them.
        conv_dim=64,
        block_dim=64,
    ),
    "Mamba-2": _config(
        "Mamba2Config",
        {**IDS, "vocab_size": VOCABULARY},
        hidden_size=64,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=32,
        state_size=16,
        n_groups=1,
        chunk_size=8,
        initializer_range=0.2,
    ),
    "Mamba": _config(
        "MambaConfig",
        {**IDS, "vocab_size": VOCABULARY},
        hidden_size=64,
        num_hidden_layers=2,
        state_size=16,
        initializer_range=0.2,
    ),
    "Jamba": _config(
        "JambaConfig",
        GROUPED,
        num_hidden_layers=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=16,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
    ),
    "Falcon-H1": _config(
        "FalconH1Config",
        GROUPED,
        head_dim=32,
        mamba_d_ssm=128,
        mamba_n_heads=4,
        mamba_d_head=32,
        mamba_d_state=16,
        mamba_chunk_size=8,
    ),
    "Cohere": _config("CohereConfig", GROUPED, logit_scale=0.25),
    "Cohere-2": _config(
        "Cohere2Config", {**GROUPED, "num_hidden_layers": 4}, logit_scale=0.25, layer_types=MIXED, sliding_window=WINDOW
    ),
    "StableLM": _config("StableLmConfig", GROUPED, partial_rotary_factor=0.25),
    "Mixtral": _config("MixtralConfig", GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "Qwen3-MoE": _config(
        "Qwen3MoeConfig", GROUPED, head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
    ),
    "gpt-oss": _config(
        "GptOssConfig",
        GROUPED,
        num_hidden_layers=4,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=MIXED,
        sliding_window=WINDOW,
    ),
}

# Architectures of which nothing is known here: they have to be right by the rule for all others.
UNLISTED: dict[str, Callable[[], PretrainedConfig]] = {
    "OPT": _config(
        "OPTConfig",
        {**IDS, "vocab_size": VOCABULARY},
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        word_embed_proj_dim=64,
        init_std=0.2,
    ),
    "MPT, ALiBi from places": _config(
        "MptConfig",
        {**IDS, "vocab_size": VOCABULARY},
        d_model=64,
        n_heads=2,
        n_layers=2,
        max_seq_len=512,
        initializer_range=0.2,
    ),
    "Llama 4, attention in chunks": _config(
        "Llama4TextConfig",
        GROUPED,
        num_hidden_layers=4,
        head_dim=32,
        intermediate_size_mlp=128,
        num_local_experts=2,
        attention_chunk_size=WINDOW,
    ),
    "Bamba, states that cannot be decoded from": _config(
        "BambaConfig",
        GROUPED,
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=32,
        mamba_d_state=16,
        mamba_n_groups=1,
        mamba_chunk_size=8,
    ),
    "RWKV, no cache": _config(
        "RwkvConfig",
        {**IDS, "vocab_size": VOCABULARY},
        hidden_size=64,
        num_hidden_layers=2,
        attention_hidden_size=64,
        intermediate_size=128,
    ),
}


def make(name: str, tokenizer_from: Path, folder: Path, **changes: Any) -> Path:
    """The folder of a tiny random model of that architecture. changes: fields of its config that are to be otherwise."""
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(tokenizer_from, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    config = (CONFIGS | UNLISTED)[name]()
    for field, value in changes.items():
        setattr(config.get_text_config(), field, value)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    return folder
