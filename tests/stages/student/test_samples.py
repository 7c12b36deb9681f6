"""The sample stream: a function of seed and step, whatever the machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import TrainingError
from stages.student.samples import PooledStream, SampleStream, own_micro_batches


def splits(forget: int, retain: int) -> np.ndarray:
    return np.array([True] * forget + [False] * retain)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5), st.data())
def test_every_row_of_a_split_comes_once_before_any_comes_again(
    forget: int, retain: int, seed: int, data: st.DataObject
) -> None:
    batch = data.draw(st.integers(2, max(forget + retain, 2)))
    stream = SampleStream(splits(forget, retain), batch_rows=batch, seed=seed)

    drawn = np.concatenate([stream.rows_of(step) for step in range(3 * stream.steps_per_epoch)])

    for rows in (drawn[drawn < forget], drawn[drawn >= forget]):
        count = forget if rows[0] < forget else retain
        for start in range(0, len(rows) - count + 1, count):
            assert len(set(rows[start : start + count])) == count


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, other = (SampleStream(splits(10, 22), batch_rows=8, seed=3) for _ in range(2))
    for step in (7, 0, 5):
        other.rows_of(step)

    assert all((one.rows_of(step) == other.rows_of(step)).all() for step in range(12))
    again = SampleStream(splits(10, 22), batch_rows=8, seed=4)
    assert any((one.rows_of(step) != again.rows_of(step)).any() for step in range(4))


@pytest.mark.parametrize(("share", "expected"), [(None, 5), (0.5, 8), (0.01, 1), (0.99, 15)])
def test_the_ratio_is_the_same_in_every_batch(share: float | None, expected: int) -> None:
    # The cache's own share is 30 of 96, so 5 of 16.
    stream = SampleStream(splits(30, 66), batch_rows=16, seed=0, forget_share=share)

    assert {int((stream.rows_of(step) < 30).sum()) for step in range(40)} == {expected}


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_every_contiguous_slice_has_its_share_of_both_splits(world: int) -> None:
    stream = SampleStream(splits(32, 32), batch_rows=16, seed=0, forget_share=0.5)

    for step in range(8):
        parts = stream.rows_of(step).reshape(world, -1)
        assert [int((part < 32).sum()) for part in parts] == [8 // world] * world


def test_steps_per_epoch_counts_a_started_batch() -> None:
    assert SampleStream(splits(5, 12), batch_rows=4, seed=0).steps_per_epoch == 5


@pytest.mark.parametrize(
    ("forget", "retain", "batch", "message"),
    [
        (0, 5, 2, "no forget rows"),
        (5, 0, 2, "no retain rows"),
        (5, 5, 11, "A batch has 11 rows, the cache 10"),
        (5, 5, 1, "A batch has 1 rows"),
    ],
)
def test_a_batch_that_cannot_hold_both_splits_is_refused(forget: int, retain: int, batch: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        SampleStream(splits(forget, retain), batch_rows=batch, seed=0)


@given(st.integers(4, 30), st.integers(4, 30), st.integers(0, 5))
def test_held_out_rows_are_of_both_splits_and_never_in_a_batch(forget: int, retain: int, seed: int) -> None:
    stream = SampleStream(splits(forget, retain), batch_rows=4, seed=seed, validation_share=0.25)

    held_out = set(stream.validation_rows.tolist())
    drawn = {int(row) for step in range(4 * stream.steps_per_epoch) for row in stream.rows_of(step)}
    assert len(held_out) == round(0.25 * forget) + round(0.25 * retain)
    assert min(held_out) < forget <= max(held_out)
    assert not held_out & drawn
    assert stream.steps_per_epoch == -(-(forget + retain - len(held_out)) // 4)


@pytest.mark.parametrize(("forget", "retain"), [(3, 100), (100, 3)])
def test_a_share_that_holds_out_nothing_of_a_split_is_refused(forget: int, retain: int) -> None:
    with pytest.raises(TrainingError, match=r"A validation_share of 0\.1 is no row of 3"):
        SampleStream(splits(forget, retain), batch_rows=4, seed=0, validation_share=0.1)


def test_a_seed_names_the_same_batches_in_every_release() -> None:
    # Worked out from the raw words of numpy's PCG64, sorted in plain Python: a run is resumed, and another's repeated, by
    # its seed. Two of five and three of seven rows are held out, so 3 of 7 are forget rows, and 2 of each batch of 5; the
    # ranks are ¼ and ¾ of the forget set, 1/6, 3/6 and 5/6 of the retain set.
    stream = SampleStream(splits(5, 7), batch_rows=5, seed=3, validation_share=0.4)

    assert stream.validation_rows.tolist() == [0, 4, 5, 6, 8]
    assert [stream.rows_of(step).tolist() for step in range(4)] == [
        [7, 1, 10, 2, 9], [11, 3, 11, 2, 10], [7, 3, 9, 1, 10], [11, 3, 7, 2, 9],
    ]  # fmt: skip


def test_rows_of_equal_rank_begin_with_the_forget_row() -> None:
    stream = SampleStream(splits(20, 20), batch_rows=40, seed=0)

    assert (stream.rows_of(0) < 20).tolist() == [True, False] * 20


def test_a_pool_is_walked_in_the_same_order_in_every_release() -> None:
    # As above; two of nine are held out.
    stream = PooledStream(9, batch_rows=3, seed=4, validation_share=0.2)

    assert stream.validation_rows.tolist() == [2, 6]
    assert [stream.rows_of(step).tolist() for step in range(4)] == [[4, 7, 1], [5, 8, 0], [3, 1, 0], [8, 7, 4]]
    assert (stream.batch_rows, stream.steps_per_epoch) == (3, 3)


def test_rows_of_a_pool_are_grouped_by_length_and_the_groups_shuffled() -> None:
    # Lengths count in steps of 16: rows 0, 2 and 5 are shorter than 16, rows 3 and 6 than 32, rows 1 and 4 than 48.
    tokens = np.array([0, 40, 15, 16, 47, 3, 31, 48])

    stream = PooledStream(8, batch_rows=2, seed=5, tokens=tokens)
    # The passes of the walk are 7 4 3 5 6 2 0 1 and 7 1 3 6 2 0 5 4.
    assert [stream.rows_of(step).tolist() for step in range(8)] == [
        [0, 3], [5, 2], [6, 4], [1, 7], [5, 3], [6, 1], [4, 7], [2, 0],
    ]  # fmt: skip
    # Three batches of three are nine places of the walk over eight rows, so one row comes twice.
    stream = PooledStream(8, batch_rows=3, seed=5, tokens=tokens)
    assert [stream.rows_of(step).tolist() for step in range(3)] == [[3, 6, 4], [5, 2, 0], [1, 7, 7]]


def test_the_one_forget_row_of_a_batch_stands_in_its_middle() -> None:
    # Ranks: ½ for the forget row; 1/8, 3/8, 5/8 and 7/8 for the others.
    stream = SampleStream(splits(2, 8), batch_rows=5, seed=0)

    assert (stream.rows_of(0) < 2).tolist() == [False, False, True, False, False]
    assert stream.batch_rows == 5


def test_a_pool_holds_nothing_out_unless_told_and_may_be_one_batch() -> None:
    stream = PooledStream(3, batch_rows=3, seed=0)

    assert len(stream.validation_rows) == 0
    assert sorted(stream.rows_of(0)) == [0, 1, 2]
    with pytest.raises(TrainingError, match="A batch has 4 rows, and there are 3 to train on"):
        PooledStream(3, batch_rows=4, seed=0)


def test_a_cache_without_a_split_says_so_before_it_speaks_of_validation() -> None:
    with pytest.raises(TrainingError, match="The cache has no forget rows to train on"):
        SampleStream(splits(0, 10), batch_rows=2, seed=0, validation_share=0.5)


def test_a_process_trains_on_its_slice_the_longest_rows_first() -> None:
    tokens = np.array([5, 9, 5, 7, 1, 2, 8, 3])
    rows = np.array([7, 0, 2, 1, 6, 5, 4, 3])

    parts = [list(own_micro_batches(rows, tokens, rank=rank, world=2, micro_rows=2)) for rank in (0, 1)]

    # Process 0 has rows 7, 0, 2, 1 of 3, 5, 5, 9 tokens, process 1 rows 6, 5, 4, 3 of 8, 2, 1, 7; equals keep their order.
    assert [[part.tolist() for part in own] for own in parts] == [[[1, 0], [2, 7]], [[6, 3], [5, 4]]]
