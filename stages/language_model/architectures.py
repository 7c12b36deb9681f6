"""What transformers' architectures bear: which take padding, what their forward pass takes, what varies with length.

Only what was measured is assumed: the conformance tests compare every architecture of this table, padded and in batches, with
plain forward passes over each row alone. An architecture that is not in it gets rows of one length, without padding and
without a shared prefix, which is right for every causal model.
"""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stages.errors import EngineError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# model_type of config.json, and why padding on the left, masked out, changes none of a row's logits.
# Left out on purpose: layers with a state (Mamba, gated delta nets, short convolutions). The kernels that run on a GPU take
# no mask in training, and let the padding into the state.
ROTARY = "rotary positions, which are given; masked keys weigh nothing"
WINDOWED = "rotary positions, which are given; the window counts back from each token, and so over its own row"
TAKES_PADDING: Mapping[str, str] = {
    "bloom": "ALiBi computed from the mask, so that distances are counted within the row",
    "cohere": ROTARY,
    "cohere2": WINDOWED,
    "falcon": "rotary positions, which are given, or ALiBi computed from the mask",
    "gemma": ROTARY,
    "gemma2": WINDOWED,
    "gemma3": WINDOWED,
    "gemma3_text": WINDOWED,
    "gpt2": "learnt positions, which are given; masked keys weigh nothing",
    "gpt_neox": ROTARY,
    "gpt_oss": "as a window; the sink of each head is no token",
    "llama": ROTARY,
    "mistral": WINDOWED,
    "mixtral": WINDOWED,
    "olmo2": ROTARY,
    "phi3": WINDOWED,
    "qwen2": WINDOWED,
    "qwen3": WINDOWED,
    "qwen3_moe": "as Qwen3; each token is routed by itself",
    "smollm3": "rotary positions, which are given, or none",
    "stablelm": ROTARY,
}
# Layers with states of which decoding token by token gives what reading the whole row gives. Of other layers with states
# (Bamba and MiniMax in transformers 5.19) it does not, and those rows are read whole for every token.
KEEPS_STATES = ("falcon_h1", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "qwen3_next")
# Rotary frequencies that are those of the longest row of a batch, or of the longest one so far.
VARYING_ROTARY = ("longrope", "dynamic")


def takes_padding(network: "PreTrainedModel") -> bool:
    """Whether rows of different length may go through the network together, padded on the left."""
    return network.config.model_type in TAKES_PADDING


def keeps_states(network: "PreTrainedModel") -> bool:
    """Whether what layers keep beside keys and values can be decoded from."""
    return network.config.model_type in KEEPS_STATES


def own_network(network: Any) -> Any:
    """The network inside of what LoRA or DeepSpeed wrapped around it."""
    network = getattr(network, "network", network)
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def arguments_for(network: Any, **wanted: Any) -> dict[str, Any]:
    """Those of the arguments that the network's forward pass names. network: as it is, or wrapped."""
    kind: type = type(own_network(network))
    names = _parameters(kind)
    return {name: value for name, value in wanted.items() if name in names}


@lru_cache(maxsize=64)
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def refuse_varying_rotary(config: "PretrainedConfig", context_length: int) -> None:
    """Raise EngineError if a row's logits would depend on how long other rows are.

    config: of the language part. context_length: most tokens of one row.
    """
    rotary = getattr(config, "rope_parameters", None) or {}
    # Some models have one kind for each type of layer.
    for each in (rotary, *(value for value in rotary.values() if isinstance(value, dict))):
        if each.get("rope_type") not in VARYING_ROTARY:
            continue
        made_for = each.get("original_max_position_embeddings") or config.max_position_embeddings
        if context_length > made_for:
            raise EngineError(
                f"The longest prompt and answer take {context_length} tokens, and beyond {made_for} this model scales its "
                f"positions by the longest row that is read ({each['rope_type']}).",
                "A row's logits would depend on the rows beside it, so nothing was asked.",
                f"Shorten the prefix, or leave out what takes more than {made_for} tokens.",
            )


def refuse_on_vllm(config: "PretrainedConfig", context_length: int) -> None:
    """Raise EngineError if vLLM computes other logits than transformers, the reference, and says nothing of it.

    config: of the language part. context_length: most tokens of one row.
    """
    if config.model_type == "lfm2":
        raise EngineError(
            "vLLM gives other logits than transformers for LFM2, by about 2 where the largest is 6.",
            "The teacher's logits would not be those of the student's network, so no weights were loaded.",
            "Use the reference engine:  --set model.engine=transformers",
        )
    window = getattr(config, "sliding_window", None)
    if config.model_type == "cohere2" and window and context_length > window:
        raise EngineError(
            f"vLLM reads Cohere 2 with a window of {window + 1} tokens, transformers with {window}, and the longest prompt "
            f"and answer take {context_length}.",
            "The teacher's logits would not be those of the student's network, so no weights were loaded.",
            "Use the reference engine:  --set model.engine=transformers",
        )
