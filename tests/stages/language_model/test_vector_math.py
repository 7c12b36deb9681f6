"""That torch's elementwise functions are first called on one number. The race itself shows once in a thousand processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stages.language_model.vector_math import FUNCTIONS, settle_vector_math

# How many numbers the first call was made on, by the time a model is built.
CALLS = """
import sys, torch
from pathlib import Path
seen = []
class Watch(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.cos:
            seen.append(args[0].numel())
        return function(*args, **(kwargs or {}))
from stages.language_model.loading import load_network
with Watch():
    load_network(Path(sys.argv[1]), "float32")
print(seen[0])
"""


def run(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_every_function_exists_in_this_torch() -> None:
    settle_vector_math()

    assert len(set(FUNCTIONS)) == len(FUNCTIONS)


def test_a_network_is_built_after_the_functions_were_called_on_one_number(tiny_model: Path) -> None:
    assert run(CALLS, str(tiny_model)) == "1"


@pytest.mark.slow
def test_vllm_is_started_after_them(tiny_model: Path) -> None:
    """Its rotary table is made once for all prompts."""
    code = CALLS.replace(
        '    load_network(Path(sys.argv[1]), "float32")',
        '    start_engine("vllm", EngineOptions(model=Path(sys.argv[1]), dtype="float32", context_length=64, stop_ids=(2,)))',
    ).replace("loading import load_network", "engine import EngineOptions, start_engine")

    assert run(code, str(tiny_model)) == "1"
