"""vLLM on the architectures of the matrix: the reference's rows, or one refusal. A few of each kind of attention by default.

DUET_WHOLE_MATRIX=1 asks for all; `make models-page` compares all as well.
"""

import os
from pathlib import Path

import pytest
from conformance.architectures import CONFIGS, make
from conformance.plain import ENGINE_TOLERANCE, SHAPES, distance
from conformance.vllm_rows import Told, ask_vllm

from stages.language_model.engine import vllm_is_installed
from stages.language_model.loading import load_network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not vllm_is_installed(), reason="this machine's lock holds no vLLM"),
]
# Full attention, windows, states, ALiBi, a mixture of experts; what is refused before vLLM starts, and what fails inside it.
FEW = ["Llama", "Gemma 3", "Granite 4 hybrid", "BLOOM", "gpt-oss", "Cohere-2", "Qwen3-Next"]
ASKED = list(CONFIGS) if os.environ.get("DUET_WHOLE_MATRIX") else FEW
# On a CPU, and in what words.
REFUSED = {
    "Cohere-2": "a window of 9 tokens, transformers with 8",
    "LFM2": "other logits than transformers for LFM2",
    "Qwen3-Next": "requires BF16",
    "Gemma 3 with vision": "failed to be inspected",
}


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {name: make(name, tiny_model, place / name.replace(" ", "-")) for name in ASKED}


@pytest.fixture(scope="module")
def told(folders: dict[str, Path]) -> dict[str, Told]:
    return dict(zip(folders, ask_vllm(list(folders.values())), strict=True))


@pytest.mark.parametrize("name", ASKED)
def test_a_row_is_a_plain_forward_pass_over_its_prompt_alone_or_the_model_is_refused_in_one_line(
    name: str, told: dict[str, Told], folders: dict[str, Path]
) -> None:
    answer = told[name]
    if name in REFUSED:
        found, _, next_step = answer.refusal
        assert REFUSED[name] in found
        assert "\n" not in found
        assert "--set model.engine=transformers" in next_step
        return
    assert answer.refusal == ()
    network = load_network(folders[name], "float32").eval()
    for shape, prompts in SHAPES.items():
        # Asked twice: the second time what the prompts begin with is kept already.
        for said in answer.said[shape]:
            found = distance(network, prompts, said, tie=2 * ENGINE_TOLERANCE)
            assert found.logits <= ENGINE_TOLERANCE
            assert found.ranks == 0
