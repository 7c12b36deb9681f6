"""A model that reads what follows a token is not one to be taught."""

from pathlib import Path

import pytest
import torch
import transformers

from stages.errors import ModelError
from stages.language_model.architectures import refuse_not_causal


def xlnet() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.XLNetConfig(
        vocab_size=512, d_model=64, n_layer=2, n_head=2, d_inner=128, initializer_range=0.5
    )
    return transformers.XLNetLMHeadModel(config).eval()


def test_a_model_whose_logits_depend_on_later_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="is no causal language model"):
        refuse_not_causal(xlnet())


def test_a_causal_model_passes(tiny_model: Path) -> None:
    refuse_not_causal(transformers.AutoModelForCausalLM.from_pretrained(tiny_model).eval())
