"""Every architecture of the matrix through the transformers engine: each row is a plain forward pass over it alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.architectures import CONFIGS, UNLISTED, make
from conformance.plain import POSITIONS, SHAPES, TOLERANCE, TOLERANCES, K, distance, plain_logits

from stages.language_model.engine import EngineOptions
from stages.language_model.loading import load_network
from stages.language_model.transformers_engine import TransformersEngine

Start = Callable[..., TransformersEngine]


@pytest.fixture(scope="module", params=CONFIGS | UNLISTED)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(architecture: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make(architecture, tiny_model, tmp_path_factory.mktemp("models") / "model")
    return load_network(folder, "float32").eval()


@pytest.fixture
def start(network: Any) -> Start:
    def started(batch_rows: int, stop_ids: tuple[int, ...] = (), likely: bool = False) -> TransformersEngine:
        options = EngineOptions(Path(), "float32", 256, stop_ids, batch_rows, log_probabilities=likely)
        return TransformersEngine(options, network)

    return started


@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_a_row_is_a_plain_forward_pass_over_its_prompt_alone(
    architecture: str, network: Any, start: Start, batch_rows: int
) -> None:
    tolerance = TOLERANCES.get(architecture, TOLERANCE)
    # What a few rows say first or second ends their answers.
    first = SHAPES["a long shared prefix, tails of 1 to 40 tokens"][0]
    stop_ids = (int(plain_logits(network, first)[-1].argmax()),)
    for prompts in SHAPES.values():
        said = start(batch_rows, stop_ids).continue_greedily(prompts, max_tokens=POSITIONS, top_k=K)

        found = distance(network, prompts, said, tie=2 * tolerance)
        assert found.logits <= tolerance
        assert found.ranks == 0
        for one in said:
            ends = np.flatnonzero(np.isin(one.token_ids, stop_ids))
            assert ends.tolist() == ([len(one.token_ids) - 1] if len(one.token_ids) < POSITIONS or len(ends) else [])


def test_answers_end_one_by_one_in_any_batch(architecture: str, network: Any, start: Start) -> None:
    prompts = SHAPES["nothing shared, rows of 1 to 60 tokens"]
    prompts = [*prompts, *([*prompt[:-1], 400] for prompt in prompts)]
    whole = [one.token_ids.tolist() for one in start(64).continue_greedily(prompts, max_tokens=5)]
    stop_ids = (whole[0][0], whole[3][1], whole[4][2], whole[5][0])

    said = start(64, stop_ids).continue_greedily(prompts, max_tokens=5, top_k=K)

    tolerance = TOLERANCES.get(architecture, TOLERANCE)
    assert len({len(one.token_ids) for one in said}) > 1
    assert distance(network, prompts, said, tie=2 * tolerance).logits <= tolerance


@pytest.mark.parametrize("batch_rows", [3, 64])
def test_log_probabilities_are_those_of_a_plain_pass(
    architecture: str, network: Any, start: Start, batch_rows: int
) -> None:
    for prompts in SHAPES.values():
        given = [[100 + place, *range(20, 20 + 3 * place)] for place in range(len(prompts))]

        found = start(batch_rows, likely=True).log_probabilities(prompts, given)

        for prompt, answer, values_T in zip(prompts, given, found, strict=True):
            logits_TV = plain_logits(network, [*prompt, *answer])[len(prompt) - 1 : -1].astype(np.float64)
            expected_T = logits_TV[np.arange(len(answer)), answer] - np.log(np.exp(logits_TV).sum(axis=1))
            np.testing.assert_allclose(values_T, expected_T, atol=TOLERANCES.get(architecture, TOLERANCE), rtol=0)


def test_draws_are_the_same_in_any_batch(start: Start) -> None:
    prompts = SHAPES["a long shared prefix, tails of 1 to 40 tokens"]

    together, alone = (start(rows).sample(prompts, seeds=range(len(prompts)), max_tokens=POSITIONS) for rows in (64, 1))

    assert [ids.tolist() for ids in together] == [ids.tolist() for ids in alone]


def test_logits_differ_from_position_to_position(network: Any) -> None:
    logits_LV = plain_logits(network, SHAPES["a single prompt"][0])

    # Or the matrix would test nothing.
    assert np.abs(logits_LV).max() > 1
    assert len(set(logits_LV.argmax(axis=1).tolist())) > len(logits_LV) / 3
