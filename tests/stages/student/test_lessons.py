"""Rows that are longer than the model reads, and losses that no model has."""

import pytest
from conftest import write_cache

from stages.errors import TrainingError
from stages.logit_cache.reader import LogitCache
from stages.student.distillation import Distillation
from stages.student.finetuning import Example, Finetuning
from stages.student.settings import FinetuneSettings, StudentSettings


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LogitCache:
    """Row i: 5 + i mod 4 input tokens and 1 + i mod 3 positions; every third row is a forget row."""
    folder = tmp_path_factory.mktemp("cache") / "cache"
    write_cache(folder, rows=20)
    return LogitCache(folder)


def test_a_row_counts_its_input_and_all_of_its_response_but_the_last_token(cache: LogitCache) -> None:
    # The longest is row 11: 8 + 3 − 1 = 10 tokens.
    Distillation(cache, StudentSettings(batch_rows=4), context_length=10)
    Distillation(cache, StudentSettings(batch_rows=4), context_length=None)

    with pytest.raises(TrainingError) as refused:
        Distillation(cache, StudentSettings(batch_rows=4), context_length=9)

    assert refused.value.found == (
        f"Example {cache.row(11).example_id} takes 10 tokens, and the model holds 9; 1 of 20 rows are too long."
    )


def test_positions_that_are_not_kept_are_not_read(cache: LogitCache) -> None:
    # Without any but the first position a row is its input alone: 8 tokens at most.
    kept = {"forget_positions": 1, "retain_positions": 1}
    Distillation(cache, StudentSettings(batch_rows=4, **kept), context_length=8)

    with pytest.raises(TrainingError, match=r"takes 8 tokens, and the model holds 7; 5 of 20 rows"):
        Distillation(cache, StudentSettings(batch_rows=4, **kept), context_length=7)


def test_an_example_of_a_fine_tuning_is_bounded_alike() -> None:
    examples = [Example("short", "retain", [1, 2], [3]), Example("long " * 40, "retain", [1, 2, 3], [4, 5])]
    Finetuning(examples, FinetuneSettings(batch_rows=2), context_length=4)

    with pytest.raises(TrainingError, match=r"Example 'long long .* takes 4 tokens, and the model holds 3"):
        Finetuning(examples, FinetuneSettings(batch_rows=2), context_length=3)


@pytest.mark.parametrize(("delta", "expected"), [(1.0, 4 * 9.5), (4.0, 4 * (4 * 10 - 8)), (100.0, 4 * 50.0)])
def test_the_loss_of_a_distance_is_that_of_every_candidate(cache: LogitCache, delta: float, expected: float) -> None:
    # K = 4 candidates, each 10 logits off.
    assert Distillation(cache, StudentSettings(batch_rows=4, huber_delta=delta)).loss_at(10.0) == expected
