"""What two processes held in parts is exported whole: every tensor, tied or not, and the logits of the trained network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from workspace import make_workspace

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tied", [True, False], ids=["tied embeddings", "a head of its own"])
def test_a_partitioned_network_is_exported_whole(tied: bool, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    # Odd sizes: no weight divides evenly between two processes, so each part is padded.
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=tied, vocab_size=513, intermediate_size=129)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(base)
    workspace = make_workspace(tmp_path, base)
    assert workspace.teacher_cache().exit_code == 0
    out = tmp_path / "out"
    out.mkdir()

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, "tests/zero3_worker.py", base, workspace.cache, out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr

    before, after = (load_file(folder / "model.safetensors") for folder in (base, out / "model"))
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
    assert ("lm_head.weight" in after) is not tied
    assert after["model.embed_tokens.weight"].shape == (513, 64)
    assert all((after[name] - value).abs().max() > 1e-4 for name, value in before.items())
    loaded, loading = AutoModelForCausalLM.from_pretrained(out / "model", output_loading_info=True)
    assert not any(loading.values())
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) is tied
    expected = torch.load(out / "logits.pt")
    assert expected.shape == (1, 20, 513)
    torch.testing.assert_close(loaded(torch.arange(3, 23)[None]).logits, expected, atol=1e-4, rtol=1e-5)
