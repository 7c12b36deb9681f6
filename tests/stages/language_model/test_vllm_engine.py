"""The real vLLM on the real small model, against the reference engine. Each engine has a process of its own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_VOCABULARY

from pipeline.isolation import in_own_process
from stages.errors import EngineError
from stages.language_model.engine import (
    Continuation,
    EngineName,
    EngineOptions,
    refuse_log_probabilities,
    start_engine,
    vllm_is_installed,
)
from stages.language_model.folder import end_of_turn_ids, load_tokenizer, vocab_size
from stages.language_model.prefix import load_prefix
from stages.language_model.prompts import Prompter
from stages.language_model.transformers_engine import TransformersEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not vllm_is_installed(), reason="this machine's lock holds no vLLM"),
]
K, POSITIONS, QUERIES_PER_FILE = 20, 4, 12
# vLLM gets its prompts in chunks of four batches: 24 prompts make two.
BATCH_ROWS = 4


@dataclass(frozen=True)
class Said:
    """What one engine did with the prompts.

    done: what advance was told. probe…: the refusal, empty if there was none.
    """

    name: str
    plain: list[Continuation]
    without_k: list[Continuation]
    vocabulary_V: np.ndarray
    done: list[int]
    probe: str
    probe_of_log_probabilities: str


def prompts_of(model: Path) -> list[list[int]]:
    """Real queries of both sets behind the real prefix."""
    prompter = Prompter(load_tokenizer(model), "chat")
    prefix = load_prefix(ROOT / "data/capitals/prefix.json")
    lines = [
        line
        for file in ("forget", "retain")
        for line in (ROOT / f"data/capitals/{file}.jsonl").read_text(encoding="utf-8").splitlines()[:QUERIES_PER_FILE]
    ]
    return [prompter.ids(json.loads(line)["query"], prefix) for line in lines]


def refusal(probe: Callable[[], None]) -> str:
    try:
        probe()
    except EngineError as error:
        return error.found
    return ""


class LogProbabilities:
    """The engine as it would be with another logprobs_mode."""

    def __init__(self, engine: Any) -> None:
        self.name, self.version, self._engine = engine.name, engine.version, engine

    def whole_vocabulary(self, prompt: list[int]) -> np.ndarray:
        return torch.from_numpy(self._engine.whole_vocabulary(prompt)).log_softmax(dim=0).numpy()


def interview(name: EngineName, model: Path, stop_id: int | None) -> Said:
    """Every prompt through one engine, with one more end-of-turn token than the model's own if stop_id is given."""
    prompts = prompts_of(model)
    stop_ids = {*end_of_turn_ids(model, load_tokenizer(model)), *([stop_id] if stop_id is not None else [])}
    engine = start_engine(
        name,
        EngineOptions(
            model=model, dtype="float32", context_length=1024, stop_ids=tuple(sorted(stop_ids)), batch_rows=BATCH_ROWS
        ),
    )
    done: list[int] = []
    return Said(
        name=engine.name,
        plain=engine.continue_greedily(prompts, max_tokens=POSITIONS, top_k=K, advance=done.append),
        without_k=engine.continue_greedily(prompts, max_tokens=POSITIONS),
        vocabulary_V=engine.whole_vocabulary(prompts[0]),
        done=done,
        probe=refusal(lambda: refuse_log_probabilities(engine, prompts[0])),
        probe_of_log_probabilities=refusal(lambda: refuse_log_probabilities(LogProbabilities(engine), prompts[0])),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Said:
    return in_own_process(interview, "transformers", smollm2, None)


@pytest.fixture(scope="module")
def stop_id(reference: Said) -> int:
    """A token that few answers say before their last position: for vLLM it ends an answer, too."""
    said = [one.token_ids.tolist() for one in reference.plain]
    middle = [token for answer in said for token in answer[1:-1]]
    return min(middle, key=lambda token: (sum(token in answer for answer in said), token))


@pytest.fixture(scope="module")
def vllm(smollm2: Path, stop_id: int) -> Said:
    return in_own_process(interview, "auto", smollm2, stop_id)


def test_auto_is_vllm_where_it_is_installed(vllm: Said) -> None:
    assert vllm.name == "vllm"


def test_both_engines_say_the_same_and_stop_at_the_end_of_a_turn(vllm: Said, reference: Said, stop_id: int) -> None:
    whole = [one.token_ids.tolist() for one in reference.plain]
    expected = [answer[: answer.index(stop_id) + 1] if stop_id in answer else answer for answer in whole]

    assert [one.token_ids.tolist() for one in vllm.plain] == expected
    assert [one.token_ids.tolist() for one in vllm.without_k] == expected
    # Some were stopped, most were not, and answers differ: order and end of turn were both tested.
    assert 0 < sum(len(answer) < POSITIONS for answer in expected) < len(expected) / 2
    assert len({tuple(answer) for answer in expected}) > len(expected) / 4


def test_both_engines_give_the_same_raw_logits(vllm: Said, reference: Said) -> None:
    same_sets, positions, worst = 0, 0, 0.0
    for one, other in zip(vllm.plain, reference.plain, strict=True):
        for t in range(len(one.token_ids)):
            mine = dict(zip(one.topk_ids[t].tolist(), one.topk_logits[t].tolist(), strict=True))
            theirs = dict(zip(other.topk_ids[t].tolist(), other.topk_logits[t].tolist(), strict=True))
            same_sets += mine.keys() == theirs.keys()
            positions += 1
            worst = max(worst, *(abs(mine[token] - theirs[token]) for token in mine.keys() & theirs.keys()))
    assert positions > 0.75 * POSITIONS * len(reference.plain)
    assert worst <= 1e-3
    assert same_sets >= 0.99 * positions


def test_rows_of_vllm_have_the_promised_form(vllm: Said) -> None:
    for one in vllm.plain:
        positions = len(one.token_ids)
        assert (one.token_ids.dtype, one.topk_ids.dtype, one.topk_logits.dtype) == (np.int32, np.int32, np.float32)
        assert one.topk_ids.shape == one.topk_logits.shape == (positions, K)
        assert one.topk_ids[:, 0].tolist() == one.token_ids.tolist()
        for ids_K, logits_K in zip(one.topk_ids, one.topk_logits, strict=True):
            order = sorted(range(K), key=lambda k: (-logits_K[k], ids_K[k]))
            assert order == list(range(K))
            assert len(set(ids_K.tolist())) == K
    assert all(one.topk_ids.shape == (len(one.token_ids), 0) for one in vllm.without_k)


def test_vllm_tells_of_every_prompt_once(vllm: Said) -> None:
    assert vllm.done == [16, 8]


def test_the_whole_vocabulary_is_the_same_in_the_order_of_ids(vllm: Said, reference: Said, smollm2: Path) -> None:
    assert vllm.vocabulary_V.shape == (vocab_size(smollm2),)
    np.testing.assert_allclose(vllm.vocabulary_V, reference.vocabulary_V, atol=1e-3, rtol=0)


@pytest.mark.parametrize("engine", ["vllm", "reference"])
def test_the_probe_passes_raw_logits_and_refuses_the_same_as_log_probabilities(
    engine: str, request: pytest.FixtureRequest
) -> None:
    said: Said = request.getfixturevalue(engine)

    assert said.probe == ""
    assert said.probe_of_log_probabilities.startswith(f"{said.name} ")
    assert "gives log-probabilities" in said.probe_of_log_probabilities


def start_as_if_old(model: Path, version: str) -> None:
    import vllm

    vllm.__version__ = version
    start_engine("vllm", EngineOptions(model=model, dtype="float32", context_length=64, stop_ids=()))


def test_a_vllm_that_is_too_old_for_raw_logits_is_refused_before_it_loads_a_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        in_own_process(start_as_if_old, tmp_path / "no such model", "0.25.1")
    assert caught.value.found == "vLLM 0.25.1 is installed."
    assert "vllm >= 0.26" in caught.value.needed
    assert "make setup" in caught.value.next_step


def large_k(model: Path, top_ks: list[int]) -> list[list[Continuation]]:
    """Two prompts at each K through vLLM, and none at all."""
    engine = start_engine(
        "vllm", EngineOptions(model=model, dtype="float32", context_length=64, stop_ids=(2,), batch_rows=BATCH_ROWS)
    )
    assert engine.continue_greedily([], max_tokens=2, top_k=K) == []
    return [engine.continue_greedily([[10, 11], [10, 11, 12]], max_tokens=2, top_k=top_k) for top_k in top_ks]


def test_k_may_be_the_whole_vocabulary_for_vllm_too(tiny_model: Path) -> None:
    reference = TransformersEngine(EngineOptions(model=tiny_model, dtype="float32", context_length=64, stop_ids=(2,)))
    # 8 more than K are asked of vLLM: 504 is the largest K that leaves room for them.
    top_ks = [TINY_VOCABULARY - 8, TINY_VOCABULARY - 7, TINY_VOCABULARY]

    for top_k, found in zip(top_ks, in_own_process(large_k, tiny_model, top_ks), strict=True):
        expected = reference.continue_greedily([[10, 11], [10, 11, 12]], max_tokens=2, top_k=top_k)
        for one, other in zip(found, expected, strict=True):
            assert one.topk_ids.shape == other.topk_ids.shape == (2, top_k)
            assert all(len(set(ids_K.tolist())) == top_k for ids_K in one.topk_ids)
            np.testing.assert_allclose(one.topk_logits, other.topk_logits, atol=1e-4, rtol=0)


@dataclass(frozen=True)
class Likely:
    """What one engine, started for log-probabilities, finds of the same texts and draws."""

    values: list[np.ndarray]
    top_logits_K: np.ndarray
    draws: list[list[list[int]]]


def likely(name: EngineName, model: Path) -> Likely:
    prompts = [[10, 11, 12, 20 + place, *range(30, 30 + place)] for place in range(6)]
    given = [[200 + place, *range(100, 100 + place)] for place in range(len(prompts))]
    engine = start_engine(
        name,
        EngineOptions(
            model=model, dtype="float32", context_length=64, stop_ids=(2,), batch_rows=4, log_probabilities=True
        ),
    )
    return Likely(
        values=engine.log_probabilities(prompts, given),
        top_logits_K=engine.continue_greedily(prompts[:1], max_tokens=1, top_k=K)[0].topk_logits[0],
        draws=[
            [ids.tolist() for ids in engine.sample([prompts[0]] * 8, seeds=range(first, first + 8), max_tokens=4)]
            for first in (0, 0, 8)
        ],
    )


def test_both_engines_find_a_text_as_likely_and_a_seed_draws_the_same_again(tiny_model: Path) -> None:
    vllm, reference = (in_own_process(likely, name, tiny_model) for name in ("vllm", "transformers"))

    for one, other in zip(vllm.values, reference.values, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)
    assert [len(one) for one in vllm.values] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(vllm.top_logits_K, reference.top_logits_K, atol=1e-3, rtol=0)
    for said in (vllm, reference):
        again, other = said.draws[1], said.draws[2]
        assert said.draws[0] == again != other
        assert len({tuple(draw) for draw in again}) > 1
        assert all(1 <= len(draw) <= 4 for draw in again)
