"""What both engines promise: tie-breaking, shared prefixes, and values that are raw logits."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import EngineError
from stages.language_model.engine import (
    EngineOptions,
    refuse_log_probabilities,
    shared_length,
    sort_candidates,
    start_engine,
    vllm_is_installed,
)


class Values:
    """An engine's answer to the probe, as it might come from one that is set up wrongly."""

    name, version = "made up", "0.1"

    def __init__(self, values_V: np.ndarray) -> None:
        self.values_V = values_V

    def whole_vocabulary(self, prompt: Sequence[int]) -> np.ndarray:
        return self.values_V


def options(model: Path) -> EngineOptions:
    return EngineOptions(model=model, dtype="float32", context_length=64, stop_ids=(2,))


def log_softmax(values_V: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values_V).log_softmax(dim=0).numpy()


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without vLLM: it is not found, and importing it fails."""
    monkeypatch.setitem(sys.modules, "vllm", None)


def test_candidates_are_sorted_by_logit_and_ties_by_id() -> None:
    ids, logits = np.array([[7, 3, 9, 1], [4, 5, 6, 8]]), np.array([[2.0, 5.0, 2.0, 2.0], [1.0, 4.0, 3.0, 4.0]])

    top_ids, top_logits = sort_candidates(ids, logits, 3)

    # Of the three that share 2.0 the greatest id falls off the end.
    assert top_ids.tolist() == [[3, 1, 7], [5, 8, 6]]
    assert top_logits.tolist() == [[5.0, 2.0, 2.0], [4.0, 4.0, 3.0]]
    assert (top_ids.dtype, top_logits.dtype) == (np.int32, np.float32)


@given(st.permutations(range(12)), st.lists(st.integers(-2, 2), min_size=12, max_size=12), st.integers(1, 12))
def test_the_order_of_candidates_is_the_same_however_the_engine_gave_them(
    ids: list[int], halves: list[int], top_k: int
) -> None:
    logits = {token: half / 2 for token, half in enumerate(halves)}
    expected = sorted(logits, key=lambda token: (-logits[token], token))[:top_k]

    top_ids, top_logits = sort_candidates(np.array([ids]), np.array([[logits[token] for token in ids]]), top_k)

    assert top_ids[0].tolist() == expected
    assert top_logits[0].tolist() == [logits[token] for token in expected]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_the_shared_length_is_the_longest_common_start(prompts: list[list[int]]) -> None:
    expected = 0
    while all(len(prompt) > expected and prompt[expected] == prompts[0][expected] for prompt in prompts):
        expected += 1

    assert shared_length(prompts) == expected


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1))
def test_prompts_share_at_least_what_was_put_in_front_of_all(start: list[int], tails: list[list[int]]) -> None:
    assert shared_length([(*start, *tail) for tail in tails]) >= len(start)


@pytest.mark.parametrize("offset", [-30.0, 0.0, 30.0])
def test_raw_logits_pass_the_probe_wherever_they_lie(offset: float) -> None:
    raw = np.random.default_rng(0).normal(offset, 2, 1000).astype(np.float32)

    refuse_log_probabilities(Values(raw), [1])  # type: ignore[arg-type]


@pytest.mark.parametrize("vocabulary", [2, 512, 128_256])
def test_log_probabilities_do_not_pass_the_probe(vocabulary: int) -> None:
    raw = np.random.default_rng(0).normal(3, 2, vocabulary).astype(np.float32)

    with pytest.raises(EngineError, match=r"made up 0\.1 gives log-probabilities") as caught:
        refuse_log_probabilities(Values(log_softmax(raw)), [1])  # type: ignore[arg-type]
    assert "nothing was captured" in caught.value.needed
    assert "vllm >= 0.26" in caught.value.next_step


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_no_numbers_do_not_pass_the_probe(broken: float) -> None:
    values = np.full(10, 3, dtype=np.float32)
    values[4] = broken

    with pytest.raises(EngineError, match="logits that are no numbers"):
        refuse_log_probabilities(Values(values), [1])  # type: ignore[arg-type]


def test_a_real_models_logits_pass_the_probe_and_its_log_probabilities_do_not(tiny_model: Path) -> None:
    engine = start_engine("transformers", options(tiny_model))
    refuse_log_probabilities(engine, [5, 6, 7])

    with pytest.raises(EngineError, match="gives log-probabilities"):
        refuse_log_probabilities(Values(log_softmax(engine.whole_vocabulary([5, 6, 7]))), [5, 6, 7])  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_vllm")
def test_vllm_that_is_not_installed_is_refused_and_not_replaced(tiny_model: Path) -> None:
    assert not vllm_is_installed()

    with pytest.raises(EngineError) as caught:
        start_engine("vllm", options(tiny_model))
    assert caught.value.found == "The setting model.engine is vllm, and vLLM is not installed."
    assert "--set model.engine=transformers" in caught.value.next_step


@pytest.mark.usefixtures("no_vllm")
def test_auto_is_transformers_where_vllm_is_not_installed(tiny_model: Path) -> None:
    assert start_engine("auto", options(tiny_model)).name == "transformers"


def test_looking_for_engines_loads_none() -> None:
    code = (
        "import sys; from stages.language_model import engine; engine.vllm_is_installed(); "
        "print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
