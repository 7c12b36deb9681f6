"""What is refused before any row is read, and what a forward pass is given."""

import pytest
import torch
from transformers import Cohere2Config, LlamaConfig, Mamba2Config, PretrainedConfig

from stages.errors import EngineError
from stages.language_model.architectures import arguments_for, refuse_on_vllm, refuse_varying_rotary

DYNAMIC = LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
LONG = LlamaConfig(
    head_dim=4,
    max_position_embeddings=256,
    rope_parameters={
        "rope_type": "longrope",
        "short_factor": [1.0, 1.0],
        "long_factor": [2.0, 2.0],
        "original_max_position_embeddings": 64,
        "factor": 4.0,
    },
)


@pytest.mark.parametrize("config", [DYNAMIC, LONG])
def test_positions_that_the_longest_row_would_scale_are_refused_beyond_the_original_context(
    config: PretrainedConfig,
) -> None:
    refuse_varying_rotary(config, 64)

    with pytest.raises(EngineError, match="take 65 tokens, and beyond 64"):
        refuse_varying_rotary(config, 65)


def test_positions_that_are_scaled_alike_for_all_rows_are_not_refused() -> None:
    linear = LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "linear", "factor": 2.0})

    refuse_varying_rotary(linear, 100)
    refuse_varying_rotary(LlamaConfig(), 10_000)


def test_cohere_2_is_refused_on_vllm_where_its_window_is_shorter_than_a_row() -> None:
    refuse_on_vllm(Cohere2Config(sliding_window=32), 32)

    with pytest.raises(EngineError, match="a window of 33 tokens, transformers with 32") as caught:
        refuse_on_vllm(Cohere2Config(sliding_window=32), 33)
    assert "--set model.engine=transformers" in caught.value.next_step


def test_a_forward_pass_is_given_what_it_names() -> None:
    from transformers import Mamba2ForCausalLM

    sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "head_dim": 8, "state_size": 4}
    network = Mamba2ForCausalLM(Mamba2Config(**sizes, n_groups=1))

    given = arguments_for(network, position_ids=torch.zeros(1), logits_to_keep=1, output_router_logits=False)

    assert given == {"logits_to_keep": 1}
