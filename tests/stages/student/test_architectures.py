"""Models that scale or soft-cap their logits, or have more embedding rows than tokens: from cache to export.

Each is trained by `duet distill` and by a plain loop whose head is written out here: full logits, one row at a time.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plain_training import train
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    LlamaConfig,
    PretrainedConfig,
)
from workspace import Workspace, make_workspace

from pipeline.settings import load_settings
from stages.logit_cache.reader import LogitCache

pytestmark = pytest.mark.slow
PADDED = 576  # embedding rows; the tokenizer has 512
SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Tight caps and odd scales: a head that forgets them is far off.
CONFIGS = {
    "gemma2": Gemma2Config(
        **SIZES,
        head_dim=32,
        query_pre_attn_scalar=32,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        sliding_window=16,
    ),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "cohere2": Cohere2Config(**SIZES, logit_scale=0.25, sliding_window=16),
    "padded": LlamaConfig(**{**SIZES, "vocab_size": PADDED}, tie_word_embeddings=True),
}
HEADS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gemma2": lambda raw_LV: 3.0 * torch.tanh(raw_LV / 3.0),
    "cohere": lambda raw_LV: 0.25 * raw_LV,
    "cohere2": lambda raw_LV: 0.25 * raw_LV,
    "padded": lambda raw_LV: raw_LV,
}


def make(config: PretrainedConfig, tiny_model: Path, folder: Path) -> Path:
    """A random model of that configuration with the tiny model's tokenizer."""
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_training_follows_full_logits_computed_by_hand(name: str, tiny_model: Path, tmp_path: Path) -> None:
    model = make(CONFIGS[name], tiny_model, tmp_path / "base")
    workspace: Workspace = make_workspace(tmp_path, model)
    for result in (workspace.teacher_cache(), workspace.distill("--set", "student.epochs=3")):
        assert result.exit_code == 0, result.output

    settings = load_settings(str(workspace.settings), ["student.epochs=3"]).student
    plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")

    def logits_of(ids: torch.Tensor) -> torch.Tensor:
        hidden_LH = plain.get_decoder()(input_ids=ids).last_hidden_state[0]
        return HEADS[name](hidden_LH @ plain.get_input_embeddings().weight.T)

    losses = train(workspace.cache, settings, list(plain.parameters()), logits_of)
    lines = [json.loads(line) for line in (workspace.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-4)
    exported = AutoModelForCausalLM.from_pretrained(workspace.run / "model", attn_implementation="eager")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(exported(ids).logits[0], logits_of(ids), atol=2e-3, rtol=0)
    if name == "padded":
        assert exported.get_input_embeddings().weight.shape == (PADDED, 64)
        assert len(AutoTokenizer.from_pretrained(workspace.run / "model")) == 512
        # A random model ranks the rows without a token as high as any, and they are taught like any.
        assert max(row.topk_ids.max() for row in LogitCache(workspace.cache).rows()) >= 512
