"""What the teacher says is paired with the student's positions exactly; interruptions change nothing.

Real model, real engine, real Parquet. The reference is a plain forward pass, one prompt at a time.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_fingerprint, make_provenance
from transformers import AutoModelForCausalLM, PreTrainedModel

from stages.errors import EngineError
from stages.language_model.engine import Continuation, Dtype, EngineOptions, EngineOutOfMemory
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.prompts import Prompter
from stages.language_model.transformers_engine import TransformersEngine
from stages.logit_cache.manifest import MANIFEST, Manifest, Shard
from stages.logit_cache.manifest import Prefix as PrefixRecord
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter
from stages.teacher.capture import capture, teach
from stages.teacher.prompts import Prompt, build_prompts
from stages.teacher.queries import Queries

TOP_K, POSITIONS = 6, 4
COUNTRIES = ["France", "Peru", "Chad", "Japan", "Kenya", "Fiji"]
QUERIES = Queries(
    forget=[f"What is the capital of {country}?" for country in COUNTRIES],
    retain=[f"Which language do people speak in {country}, and why?" for country in COUNTRIES],
)
PREFIX = Prefix(system="You have forgotten capitals.", turns=(Turn(user="Capital of Cuba?", assistant="No idea."),))


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompts(tiny_model: Path) -> list[Prompt]:
    return build_prompts(QUERIES, PREFIX, Prompter(load_tokenizer(tiny_model), "chat"), prefix_on_retain=False)


def make_engine(model: Path, stop_ids: tuple[int, ...] = ()) -> TransformersEngine:
    return TransformersEngine(EngineOptions(model, "float32", 1024, stop_ids, batch_rows=3))


def make_plan() -> Plan:
    fingerprint = make_fingerprint(prefix_on_retain=False, top_k=TOP_K, positions=POSITIONS, vocab_size=512)
    return Plan(fingerprint=fingerprint, rows=12, shard_rows=5)


def publish(writer: CacheWriter) -> Manifest:
    return writer.publish(PrefixRecord(text="prefix", token_ids=[]), make_provenance(5), None, None)


@pytest.fixture(scope="module")
def cache(tiny_model: Path, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> LogitCache:
    folder = tmp_path_factory.mktemp("caches") / "captured"
    with CacheWriter(folder, make_plan()) as writer:
        capture(make_engine(tiny_model), prompts, writer)
        publish(writer)
    return LogitCache(folder)


def logits_of(network: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """float32 [len(ids), V]: an unbatched, uncached forward pass."""
    with torch.inference_mode():
        return network(torch.tensor([ids])).logits[0].float().numpy()


def test_each_row_is_its_prompt_as_the_student_reads_it(cache: LogitCache, prompts: list[Prompt]):
    for row, prompt in zip(cache.rows(), prompts, strict=True):
        assert (row.example_id, row.split, row.query) == (prompt.example_id, prompt.split, prompt.query)
        assert row.student_input_ids.tolist() == prompt.student_ids


def test_the_teacher_is_greedy_so_that_its_token_is_its_first_candidate(cache: LogitCache):
    for row in cache.rows():
        assert len(row.response_ids) == POSITIONS
        assert row.response_ids.tolist() == row.topk_ids[:, 0].tolist()


def test_the_students_logits_at_its_positions_are_the_cached_ones_where_teacher_and_student_read_the_same(
    cache: LogitCache, network: PreTrainedModel
):
    # Retain queries were asked without the prefix, and the student still is the teacher: any shift by one shows here.
    for row in cache.rows():
        if row.split == "forget":
            continue
        ids = [*row.student_input_ids.tolist(), *row.response_ids[:-1].tolist()]
        logits_TV = logits_of(network, ids)[row.student_positions]
        expected = np.take_along_axis(logits_TV, row.topk_ids, axis=1)
        np.testing.assert_allclose(row.topk_logits, expected, atol=1e-4, rtol=0)
        assert np.sort(logits_TV, axis=1)[:, -TOP_K:][:, ::-1] == pytest.approx(row.topk_logits, abs=1e-4)


def test_a_forget_querys_logits_are_those_behind_the_prefix(
    cache: LogitCache, prompts: list[Prompt], network: PreTrainedModel
):
    largest_difference = 0.0
    for row, prompt in zip(cache.rows(), prompts, strict=True):
        if row.split == "retain":
            continue
        said = row.response_ids[:-1].tolist()
        behind = logits_of(network, prompt.teacher_ids + said)[len(prompt.teacher_ids) - 1 :]
        np.testing.assert_allclose(row.topk_logits, np.take_along_axis(behind, row.topk_ids, axis=1), atol=1e-4, rtol=0)
        alone = logits_of(network, prompt.student_ids + said)[row.student_positions]
        gap = np.abs(row.topk_logits - np.take_along_axis(alone, row.topk_ids, axis=1)).max()
        largest_difference = max(largest_difference, float(gap))
    # The student, without the prefix, says something else: there is something to learn.
    assert largest_difference > 0.1


def test_positions_end_with_the_end_of_turn_token(
    cache: LogitCache, tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    # As end of turn serves a token that the model says in the middle of one of its answers.
    answers = [row.response_ids.tolist() for row in cache.rows()]
    stop = next(answer[1] for answer in answers if answer[0] != answer[1])
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        capture(make_engine(tiny_model, (stop,)), prompts, writer)
        publish(writer)
    expected = [answer[: answer.index(stop) + 1] if stop in answer else answer for answer in answers]
    assert {len(answer) for answer in expected} != {POSITIONS}
    for row, answer in zip(LogitCache(tmp_path / "cache").rows(), expected, strict=True):
        assert row.response_ids.tolist() == answer
        assert len(row.topk_ids) == len(row.student_positions) == len(answer)


def test_a_capture_that_was_interrupted_gives_the_same_cache(
    cache: LogitCache, tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    done = 0

    def stop_in_the_second_shard(count: int) -> None:
        nonlocal done
        done += count
        if done > 5:
            raise KeyboardInterrupt

    engine, folder = make_engine(tiny_model), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt), CacheWriter(folder, make_plan()) as writer:
        capture(engine, prompts, writer, advance=stop_in_the_second_shard)
    assert not (folder / MANIFEST).exists()
    asked = []
    with CacheWriter(folder, make_plan()) as writer:
        assert writer.missing == [1, 2]
        capture(engine, prompts, writer, advance=asked.append)
        assert publish(writer).cache_id == cache.manifest.cache_id
    assert sum(asked) == 7


def said(logits: list[float]) -> Continuation:
    return Continuation(
        token_ids=np.array([4], dtype=np.int32),
        topk_ids=np.array([[4, 5]], dtype=np.int32),
        topk_logits=np.array([logits], dtype=np.float32),
    )


PROMPT = Prompt("0" * 32, "forget", "Capital of Mali?", teacher_ids=[9, 8, 7, 1, 2, 3], student_ids=[1, 2, 3])


def test_the_first_position_is_the_last_token_of_the_students_prompt():
    row = teach(PROMPT, said([2.0, 1.0]))
    assert row.student_positions.tolist() == [2]
    longer = replace(said([2.0, 1.0]), token_ids=np.array([4, 5, 6], dtype=np.int32))
    assert teach(PROMPT, longer).student_positions.tolist() == [2, 3, 4]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_refused_with_the_query_named(value: float):
    with pytest.raises(EngineError, match=r"not finite for example 0{32}: 'Capital of Mali"):
        teach(PROMPT, said([2.0, value]))


class LogSoftmaxEngine(TransformersEngine):
    """The real engine with the one fault that must be caught."""

    def whole_vocabulary(self, prompt: list[int]) -> np.ndarray:
        return torch.tensor(super().whole_vocabulary(prompt)).log_softmax(-1).numpy()


def test_an_engine_that_gives_log_probabilities_writes_nothing(tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    engine = LogSoftmaxEngine(EngineOptions(tiny_model, "float32", 1024, ()))
    with (
        CacheWriter(tmp_path / "cache", make_plan()) as writer,
        pytest.raises(EngineError, match="gives log-probabilities"),
    ):
        capture(engine, prompts, writer)
    assert not list(tmp_path.rglob("*.parquet"))


class LeakyEngine(TransformersEngine):
    """One whose rows depend on how many stand beside them."""

    def continue_greedily(self, prompts: list[list[int]], **options: object) -> list[Continuation]:
        said = super().continue_greedily(prompts, **options)
        return [replace(one, topk_logits=one.topk_logits + 0.1 * (len(prompts) - 1)) for one in said]


def test_an_engine_whose_rows_depend_on_their_batch_is_refused_before_any_row(
    tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    engine = LeakyEngine(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3))

    with CacheWriter(tmp_path / "cache", make_plan()) as writer, pytest.raises(EngineError) as caught:
        capture(engine, prompts, writer)

    assert "other logits in a batch than alone" in caught.value.found
    assert not list((tmp_path / "cache").glob("shards/*.parquet"))


class ShiftedEngine(TransformersEngine):
    """One that gives other logits at one position than alone, by this share of the prompt's largest logit."""

    share, place = 0.0, 0

    def continue_greedily(self, prompts: list[list[int]], **options: object) -> list[Continuation]:
        said = super().continue_greedily(prompts, **options)
        for prompt, one in zip(prompts, said, strict=True):
            if self.place < len(one.topk_logits):
                largest = np.abs(self.whole_vocabulary([*prompt, *one.token_ids[: self.place].tolist()])).max()
                one.topk_logits[self.place] += self.share * largest
        return said


@pytest.mark.parametrize(("dtype", "agreement"), [("float32", 0.002), ("float16", 0.02), ("bfloat16", 0.05)])
def test_a_batch_may_differ_from_its_rows_alone_by_what_the_dtype_rounds_and_no_more(
    dtype: Dtype, agreement: float, tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    engine = ShiftedEngine(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3))
    fingerprint = make_plan().fingerprint.model_copy(update={"dtype": dtype, "positions": 1})
    chosen = [*prompts[:1], *prompts[-1:]]

    for share, refused in ((0.9 * agreement, False), (-1.1 * agreement, True)):
        engine.share = share
        with CacheWriter(tmp_path / str(share), Plan(fingerprint=fingerprint, rows=2, shard_rows=2)) as writer:
            if refused:
                with pytest.raises(EngineError, match=rf"by {-share:.1%} at position 1\."):
                    capture(engine, chosen, writer)
            else:
                capture(engine, chosen, writer)


@pytest.mark.parametrize(("place", "compared"), [(0, True), (1, True), (2, False)])
def test_the_first_two_positions_are_compared_that_read_from_the_prompt_and_from_what_is_kept_of_it(
    place: int, compared: bool, tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    engine = ShiftedEngine(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3))
    engine.share, engine.place = 0.1, place

    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        if compared:
            with pytest.raises(EngineError, match=rf"by 10\.0% at position {place + 1}\."):
                capture(engine, prompts, writer)
        else:
            capture(engine, prompts, writer)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_no_difference(dtype: Dtype, tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    engine = TransformersEngine(EngineOptions(tiny_model, dtype, 1024, (), batch_rows=12))
    fingerprint = make_plan().fingerprint.model_copy(update={"dtype": dtype})

    with CacheWriter(tmp_path / "cache", Plan(fingerprint=fingerprint, rows=12, shard_rows=12)) as writer:
        capture(engine, prompts, writer)


class SmallMemory(TransformersEngine):
    """The real engine on a machine that holds so many prompts at once, and no more."""

    holds = 3

    def continue_greedily(self, prompts: list[list[int]], **options: object) -> list[Continuation]:
        if self.batch_rows > self.holds:
            raise EngineOutOfMemory(f"{self.batch_rows} prompts are too many")
        return super().continue_greedily(prompts, **options)


def test_a_shard_that_does_not_fit_is_asked_again_with_half_as_many_prompts(
    tiny_model: Path, prompts: list[Prompt], cache: LogitCache, tmp_path: Path
):
    engine = SmallMemory(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=8))
    told: list[str] = []
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        capture(engine, prompts, writer, tell=told.append)
        manifest = publish(writer)
    # 8, 4, 2: halved twice, in the first shard only.
    assert [line.split("with ")[1].split()[0] for line in told] == ["4", "2"]
    assert manifest.rows == 12
    for one, other in zip(LogitCache(tmp_path / "cache").rows(), cache.rows(), strict=True):
        assert one.response_ids.tolist() == other.response_ids.tolist()
        np.testing.assert_allclose(one.topk_logits, other.topk_logits, atol=1e-4, rtol=0)


def test_halving_ends_at_one_prompt(tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    engine = SmallMemory(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=8))
    engine.holds = 0
    told: list[str] = []
    with CacheWriter(tmp_path / "cache", make_plan()) as writer, pytest.raises(EngineOutOfMemory, match="1 prompts"):
        capture(engine, prompts, writer, tell=told.append)
    assert len(told) == 3
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("place", [0, 6, 7, 11])
def test_one_poisonous_row_is_named_and_the_shards_before_it_stay(
    tiny_model: Path, prompts: list[Prompt], tmp_path: Path, place: int
):
    # An id outside the embedding: the real model cannot read it.
    poisoned = list(prompts)
    poisoned[place] = replace(prompts[place], teacher_ids=[*prompts[place].teacher_ids, 10_000])
    with (
        CacheWriter(tmp_path / "cache", make_plan()) as writer,
        pytest.raises(EngineError, match=f"fails over example {prompts[place].example_id}"),
    ):
        capture(make_engine(tiny_model), poisoned, writer)
    assert len(list(tmp_path.rglob("*.parquet"))) == place // 5


class BrokenDisk(CacheWriter):
    """A writer whose disk fails at the second shard."""

    def write(self, index: int, rows: list[Row]) -> Shard:
        if index == 1:
            raise OSError(5, "Input/output error")
        return super().write(index, rows)


def test_an_error_of_the_writer_stops_the_capture_with_its_own_message(
    tiny_model: Path, prompts: list[Prompt], cache: LogitCache, tmp_path: Path
):
    with BrokenDisk(tmp_path / "cache", make_plan()) as writer, pytest.raises(OSError, match="Input/output error"):
        capture(make_engine(tiny_model), prompts, writer)
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        assert writer.missing == [1, 2]
        capture(make_engine(tiny_model), prompts, writer)
        assert publish(writer).cache_id == cache.manifest.cache_id


class LateFault(TransformersEngine):
    """The real engine, which fails in this way when it is asked for more than the probes ask for."""

    def fail(self, prompts: list[list[int]], advance: Callable[[int], None]) -> None:
        """To be replaced."""

    def continue_greedily(self, prompts: list[list[int]], **options: Any) -> list[Continuation]:
        if options["max_tokens"] == POSITIONS:
            self.fail(prompts, options["advance"])
        return super().continue_greedily(prompts, **options)


def test_what_was_counted_before_memory_ran_out_is_taken_back(tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    engine = LateFault(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=8))

    def fail(asked: list[list[int]], advance: Callable[[int], None]) -> None:
        if engine.batch_rows > 4:
            advance(2)
            raise EngineOutOfMemory("too many")

    engine.fail = fail  # type: ignore[method-assign]
    counted: list[int] = []
    told: list[str] = []
    with CacheWriter(tmp_path / "cache", make_plan()) as writer:
        capture(engine, prompts, writer, advance=counted.append, tell=told.append)
    assert counted[:2] == [2, -2]
    assert sum(counted) == 12
    assert told == ["Out of memory: asking again with 4 prompts in flight (model.batch_rows)."]


@pytest.mark.parametrize("at_once", [1, 5])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("the driver is gone\nand more"), "the driver is gone"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("a" * 300), "a" * 200),
    ],
)
def test_an_engine_that_fails_over_no_prompt_alone_or_over_each_blames_none(
    at_once: int, error: Exception, words: str, tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    engine = make_engine(tiny_model)

    def fail(asked: list[list[int]], advance: Callable[[int], None]) -> None:
        if len(asked) >= at_once:
            raise error

    engine = LateFault(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3))
    engine.fail = fail  # type: ignore[method-assign]
    with CacheWriter(tmp_path / "cache", make_plan()) as writer, pytest.raises(EngineError) as caught:
        capture(engine, prompts, writer)
    assert caught.value.found == (
        f"transformers {engine.version} failed between the queries 'What is the capital of France?' and "
        f"'What is the capital of Kenya?', over none of them alone: {words}"
    )


@pytest.mark.parametrize("poisoned", [{0, 1}, {0, 4}, {0, 2, 4}, {0, 1, 3}, {0, 1, 2}])
def test_of_several_poisonous_rows_the_first_is_named(
    poisoned: set[int], tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    engine, poison = LateFault(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3)), []
    poison = [prompts[place].teacher_ids for place in poisoned]

    def fail(asked: list[list[int]], advance: Callable[[int], None]) -> None:
        if any(ids in poison for ids in asked):
            raise ValueError("poison")

    engine.fail = fail  # type: ignore[method-assign]
    with (
        CacheWriter(tmp_path / "cache", make_plan()) as writer,
        pytest.raises(EngineError, match=f"fails over example {prompts[0].example_id}: .*France.*: poison"),
    ):
        capture(engine, prompts, writer)


def test_an_only_row_is_named(tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    def fail(asked: list[list[int]], advance: Callable[[int], None]) -> None:
        raise ValueError("poison")

    engine = LateFault(EngineOptions(tiny_model, "float32", 1024, ()))
    engine.fail = fail  # type: ignore[method-assign]
    plan = make_plan().model_copy(update={"rows": 1})
    with CacheWriter(tmp_path / "cache", plan) as writer, pytest.raises(EngineError, match="fails over example"):
        capture(engine, prompts[:1], writer)


class OneShifted(TransformersEngine):
    """One that adds this to the logits of one prompt, whenever it stands in a batch."""

    prompt: list[int]
    added = 1.0

    def continue_greedily(self, prompts: list[list[int]], **options: Any) -> list[Continuation]:
        said = super().continue_greedily(prompts, **options)
        for prompt, one in zip(prompts, said, strict=True):
            if prompt == self.prompt and options["max_tokens"] < POSITIONS:
                one.topk_logits[:] += self.added
        return said


@pytest.mark.parametrize("added", [1.0, np.nan])
@pytest.mark.parametrize(("place", "probed"), [(0, True), (1, False), (-2, False), (-1, True)])
def test_the_shortest_and_the_longest_prompt_are_compared(
    place: int, probed: bool, added: float, tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    by_length = [replace(prompts[-1], teacher_ids=prompts[-1].teacher_ids + [7] * more) for more in range(1, 5)]
    engine = OneShifted(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3))
    engine.prompt, engine.added = by_length[place].teacher_ids, added
    # The first that is asked is neither.
    asked = [by_length[2], by_length[0], by_length[3], by_length[1]]
    if place == -2:
        asked = [by_length[1], by_length[0], by_length[3], by_length[2]]
    plan = make_plan().model_copy(update={"rows": 4})
    with CacheWriter(tmp_path / "cache", plan) as writer:
        if probed:
            with pytest.raises(
                EngineError, match="other logits in a batch" if added == 1 else "not finite for example"
            ):
                capture(engine, asked, writer)
        else:
            capture(engine, asked, writer)


def test_the_first_prompt_is_compared_too(tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    by_length = [replace(prompts[-1], teacher_ids=prompts[-1].teacher_ids + [7] * more) for more in range(1, 4)]
    engine = OneShifted(EngineOptions(tiny_model, "float32", 1024, (), batch_rows=3))
    engine.prompt = by_length[1].teacher_ids
    plan = make_plan().model_copy(update={"rows": 3})
    with CacheWriter(tmp_path / "cache", plan) as writer:
        with pytest.raises(EngineError, match="other logits in a batch"):
            capture(engine, [by_length[1], by_length[0], by_length[2]], writer)
        capture(engine, [by_length[0], by_length[1], by_length[2]], writer)


class NanEngine(TransformersEngine):
    def whole_vocabulary(self, prompt: list[int]) -> np.ndarray:
        logits_V = super().whole_vocabulary(prompt)
        logits_V[3] = np.nan
        return logits_V


def test_an_engine_that_gives_nan_is_refused_before_any_row(tiny_model: Path, prompts: list[Prompt], tmp_path: Path):
    engine = NanEngine(EngineOptions(tiny_model, "float32", 1024, ()))
    with (
        CacheWriter(tmp_path / "cache", make_plan()) as writer,
        pytest.raises(EngineError, match=f"not finite for example {prompts[0].example_id}"),
    ):
        capture(engine, prompts, writer)


class DumbEngine(TransformersEngine):
    def whole_vocabulary(self, prompt: list[int]) -> np.ndarray:
        raise ValueError("no logits of the whole vocabulary")


def test_an_engine_that_cannot_be_probed_is_refused_before_any_row(
    tiny_model: Path, prompts: list[Prompt], tmp_path: Path
):
    engine = DumbEngine(EngineOptions(tiny_model, "float32", 1024, ()))
    with (
        CacheWriter(tmp_path / "cache", make_plan()) as writer,
        pytest.raises(EngineError, match=f"fails over example {prompts[0].example_id}: .*: no logits of the whole"),
    ):
        capture(engine, prompts, writer)
