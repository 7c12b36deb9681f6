"""The reference engine against a plain forward pass per token: no cache, no padding, no batch, no shared prefix."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3TextConfig,
    MixtralConfig,
    PreTrainedModel,
    XLMConfig,
    XLNetConfig,
)

from stages.errors import EngineError, ModelError
from stages.language_model.engine import Continuation, Dtype, EngineOptions, EngineOutOfMemory
from stages.language_model.transformers_engine import TransformersEngine

K, LENGTH = 5, 6
# float32, logits of up to 7; the largest difference measured was 7.2e-6.
TOLERANCE = 5e-5
TAILS = [[20], [30, 31, 32, 33], [40, 41], [50], [60, 61, 62, 63, 64, 65, 66, 67, 68], [40, 41]]
PROMPTS = {
    "a shared prefix": [[10, 11, 12, 13, *tail] for tail in TAILS],
    "nothing shared": [[100 + row, *tail] for row, tail in enumerate(TAILS)],
    "one prompt begins all others": [[10, 11], *([10, 11, *tail] for tail in TAILS)],
    "one token": [[7], [7, 8, 9]],
    "all the same": [[10, 11, 12]] * 3,
}


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def start(
    model: Path, *, batch_rows: int = 8, stop_ids: tuple[int, ...] = (), dtype: Dtype = "float32"
) -> TransformersEngine:
    return TransformersEngine(
        EngineOptions(model=model, dtype=dtype, context_length=64, stop_ids=stop_ids, batch_rows=batch_rows)
    )


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    """An engine that nothing stops before max_tokens."""
    return start(tiny_model)


def plain(
    network: PreTrainedModel, prompt: list[int], *, length: int = LENGTH, top_k: int = K, stop_ids: tuple[int, ...] = ()
) -> Continuation:
    """The same by hand: the whole text through the model again for every token."""
    ids, said, top_ids, top_logits = list(prompt), [], [], []
    for _ in range(length):
        with torch.inference_mode():
            logits_V = network(torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()
        order = sorted(range(len(logits_V)), key=lambda token: (-logits_V[token], token))[:top_k]
        top_ids.append(order)
        top_logits.append(logits_V[order])
        said.append(order[0])
        ids.append(order[0])
        if order[0] in stop_ids:
            break
    return Continuation(np.array(said), np.array(top_ids), np.array(top_logits))


def assert_equal(found: list[Continuation], expected: list[Continuation]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.topk_ids.tolist() == other.topk_ids.tolist()
        np.testing.assert_allclose(one.topk_logits, other.topk_logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("batch_rows", [1, 2, 8])
@pytest.mark.parametrize("kind", PROMPTS)
def test_continuations_and_candidates_are_those_of_a_plain_loop_in_prompt_order(
    tiny_model: Path, network: PreTrainedModel, kind: str, batch_rows: int
) -> None:
    prompts = PROMPTS[kind]

    found = start(tiny_model, batch_rows=batch_rows).continue_greedily(prompts, max_tokens=LENGTH, top_k=K)

    expected = [plain(network, prompt) for prompt in prompts]
    assert_equal(found, expected)
    # The prompts are told apart by their answers, or their order would not have been tested.
    if kind != "all the same":
        assert len({tuple(one.token_ids) for one in expected}) > 1


# The same examples every time: where two logits nearly tie, either order would be right.
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.integers(0, TINY_VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 3),
)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(
    engine: TransformersEngine, prompts: list[list[int]], length: int
) -> None:
    together = engine.continue_greedily(prompts, max_tokens=length, top_k=K)
    alone = [engine.continue_greedily([prompt], max_tokens=length, top_k=K)[0] for prompt in prompts]

    assert_equal(together, alone)


def test_every_array_has_the_promised_dtype_and_shape(engine: TransformersEngine) -> None:
    for one in engine.continue_greedily(PROMPTS["a shared prefix"], max_tokens=3, top_k=K):
        assert (one.token_ids.dtype, one.token_ids.shape) == (np.int32, (3,))
        assert (one.topk_ids.dtype, one.topk_ids.shape) == (np.int32, (3, K))
        assert (one.topk_logits.dtype, one.topk_logits.shape) == (np.float32, (3, K))


@pytest.mark.parametrize("batch_rows", [1, 8])
def test_an_answer_ends_with_its_end_of_turn_token_and_the_others_go_on(
    tiny_model: Path, network: PreTrainedModel, batch_rows: int
) -> None:
    prompts = PROMPTS["a shared prefix"]
    whole = [plain(network, prompt).token_ids.tolist() for prompt in prompts]
    # Two tokens that some answers say in their middle serve as end of turn.
    stop_ids = (whole[1][2], whole[4][1])
    expected = [plain(network, prompt, stop_ids=stop_ids) for prompt in prompts]
    lengths = [len(one.token_ids) for one in expected]
    assert min(lengths) < max(lengths) == LENGTH

    found = start(tiny_model, batch_rows=batch_rows, stop_ids=stop_ids).continue_greedily(
        prompts, max_tokens=LENGTH, top_k=K
    )

    assert_equal(found, expected)
    for one in found:
        assert len(one.token_ids) == LENGTH or one.token_ids[-1] in stop_ids
        assert not set(one.token_ids[:-1]) & set(stop_ids)
        assert one.ended is (one.token_ids[-1] in stop_ids)


def test_advance_is_told_of_every_prompt_once_batch_by_batch(tiny_model: Path) -> None:
    done: list[int] = []

    start(tiny_model, batch_rows=4).continue_greedily(PROMPTS["a shared prefix"], max_tokens=1, advance=done.append)

    assert done == [4, 2]


def test_batch_rows_can_be_lowered_between_calls(tiny_model: Path) -> None:
    engine, done = start(tiny_model, batch_rows=4), []
    engine.batch_rows = 1

    engine.continue_greedily(PROMPTS["a shared prefix"], max_tokens=1, advance=done.append)

    assert done == [1] * 6


@pytest.mark.parametrize("top_k", [1, TINY_VOCABULARY - 1, TINY_VOCABULARY])
def test_k_may_be_one_and_may_be_the_whole_vocabulary(
    engine: TransformersEngine, network: PreTrainedModel, top_k: int
) -> None:
    prompts = PROMPTS["a shared prefix"]

    found = engine.continue_greedily(prompts, max_tokens=2, top_k=top_k)

    for one, prompt in zip(found, prompts, strict=True):
        expected = plain(network, prompt, length=2, top_k=top_k)
        assert one.topk_ids.shape == (2, top_k)
        # Neighbours in a sorted vocabulary lie closer than float32 can tell; each id keeps its logit.
        np.testing.assert_allclose(one.topk_logits, expected.topk_logits, atol=TOLERANCE, rtol=0)
        for t in range(2):
            assert len(set(one.topk_ids[t].tolist())) == top_k
            assert np.all(np.diff(one.topk_logits[t]) <= 0)
    if top_k == TINY_VOCABULARY:
        values_V = engine.whole_vocabulary(prompts[0])
        np.testing.assert_allclose(values_V[found[0].topk_ids[0]], found[0].topk_logits[0], atol=TOLERANCE, rtol=0)


def test_without_k_there_are_the_same_tokens_and_no_candidates(engine: TransformersEngine) -> None:
    prompts = PROMPTS["a shared prefix"]

    without = engine.continue_greedily(prompts, max_tokens=LENGTH)

    for one, other in zip(without, engine.continue_greedily(prompts, max_tokens=LENGTH, top_k=K), strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert (one.topk_ids.shape, one.topk_logits.shape) == ((LENGTH, 0), (LENGTH, 0))
        assert (one.topk_ids.dtype, one.topk_logits.dtype) == (np.int32, np.float32)


def test_no_prompts_have_no_continuations(engine: TransformersEngine) -> None:
    assert engine.continue_greedily([], max_tokens=LENGTH, top_k=K) == []


def test_the_whole_vocabulary_is_in_the_order_of_ids(engine: TransformersEngine, network: PreTrainedModel) -> None:
    values_V = engine.whole_vocabulary([10, 11, 12])

    with torch.inference_mode():
        expected_V = network(torch.tensor([[10, 11, 12]])).logits[0, -1].numpy()
    assert (values_V.dtype, values_V.shape) == (np.float32, (TINY_VOCABULARY,))
    np.testing.assert_allclose(values_V, expected_V, atol=TOLERANCE, rtol=0)


def test_equal_logits_at_rank_k_are_settled_by_id(tiny_model: Path, tmp_path: Path) -> None:
    # Six tokens with one and the same row of the output embedding have the same logit, to the bit.
    twins = [33, 71, 150, 151, 300, 480]
    folder = Path(shutil.copytree(tiny_model, tmp_path / "twins"))
    weights = load_file(folder / "model.safetensors")
    rows_VD = weights["model.embed_tokens.weight"]
    rows_VD[twins] = rows_VD[71].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    (found,) = start(folder).continue_greedily([[10, 71]], max_tokens=1, top_k=512)
    place = found.topk_ids[0].tolist().index(33)
    assert found.topk_ids[0, place : place + 6].tolist() == twins
    assert len(set(found.topk_logits[0, place : place + 6].tolist())) == 1
    # Cut in the middle of the six: the least ids stay.
    (cut,) = start(folder).continue_greedily([[10, 71]], max_tokens=1, top_k=place + 3)
    assert cut.topk_ids[0, place:].tolist() == twins[:3]


def test_bfloat16_gives_values_that_bfloat16_can_hold_in_float32(tiny_model: Path) -> None:
    found = start(tiny_model, dtype="bfloat16").continue_greedily([[10, 11, 12]], max_tokens=2, top_k=20)

    logits = torch.from_numpy(found[0].topk_logits)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())


def test_memory_that_is_not_there_is_named_and_the_engine_can_be_asked_again(tiny_model: Path) -> None:
    engine, prompts = start(tiny_model, batch_rows=3), PROMPTS["a shared prefix"]

    def fill(*arguments: object) -> None:
        torch.empty(1 << 60)

    def run_dry(*arguments: object) -> None:
        raise MemoryError

    for cause in (fill, run_dry):
        hook = engine._model.register_forward_pre_hook(cause)
        with pytest.raises(EngineOutOfMemory, match="does not hold 3 prompts at once") as caught:
            engine.continue_greedily(prompts, max_tokens=1)
        assert "--set model.batch_rows=1" in caught.value.next_step
        with pytest.raises(EngineOutOfMemory, match="does not hold 1 prompts"):
            engine.whole_vocabulary(prompts[0])
        hook.remove()
    assert len(engine.continue_greedily(prompts, max_tokens=1)) == len(prompts)


def test_an_error_that_is_not_about_memory_stays_what_it_is(tiny_model: Path) -> None:
    engine = start(tiny_model)

    def fail(*arguments: object) -> None:
        torch.ones(2, 3) @ torch.ones(2, 3)

    engine._model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.continue_greedily([[1, 2]], max_tokens=1)


@pytest.mark.parametrize("config", ['{"model_type": "no_such_model"}', '{"model_type": "llama"}'])
def test_a_folder_that_transformers_cannot_load_is_one_message(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)

    with pytest.raises(ModelError, match=r"transformers cannot make out|holds neither"):
        start(tmp_path)


def test_attention_is_soft_capped_where_the_model_says_so(tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        initializer_range=0.5,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    )
    torch.manual_seed(0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma2")
    ids = list(range(3, 15))
    logits = {
        attention: AutoModelForCausalLM.from_pretrained(tmp_path / "gemma2", attn_implementation=attention)(
            torch.tensor([ids])
        ).logits[0, -1]
        for attention in ("eager", "sdpa")
    }

    found = torch.from_numpy(start(tmp_path / "gemma2").whole_vocabulary(ids))
    torch.testing.assert_close(found, logits["eager"], atol=TOLERANCE, rtol=0)
    assert (found - logits["sdpa"]).abs().max() > 0.1  # the faster attention leaves it out


def test_log_probabilities_are_those_of_a_plain_pass_over_the_whole_text(
    tiny_model: Path, network: PreTrainedModel
) -> None:
    prompts = PROMPTS["a shared prefix"]
    given = [[5], [6, 7, 8], [9, 10], [11], [12, 13, 14, 15], [16, 17]]
    engine = TransformersEngine(
        EngineOptions(
            model=tiny_model, dtype="float32", context_length=64, stop_ids=(), batch_rows=4, log_probabilities=True
        )
    )

    found = engine.log_probabilities(prompts, given)

    for prompt, answer, one in zip(prompts, given, found, strict=True):
        with torch.inference_mode():
            shares_LV = network(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(dim=-1)
        expected = [shares_LV[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer)]
        np.testing.assert_allclose(one, expected, atol=TOLERANCE, rtol=0)
    # The candidates of such an engine are log-probabilities, too: over the whole vocabulary they sum to one.
    (first,) = engine.continue_greedily(prompts[:1], max_tokens=1, top_k=TINY_VOCABULARY)
    assert np.exp(first.topk_logits[0].astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)


def test_an_engine_of_raw_logits_refuses_to_say_how_likely_a_text_is(engine: TransformersEngine) -> None:
    with pytest.raises(EngineError, match="started for raw logits"):
        engine.log_probabilities([[1]], [[2]])


def test_a_seed_draws_the_same_alone_and_in_any_batch_and_draws_follow_the_probabilities(
    engine: TransformersEngine, network: PreTrainedModel
) -> None:
    prompts = PROMPTS["a shared prefix"]
    together = engine.sample(prompts, seeds=range(len(prompts)), max_tokens=4)
    alone = [engine.sample([prompt], seeds=[seed], max_tokens=4)[0] for seed, prompt in enumerate(prompts)]
    assert [one.tolist() for one in together] == [one.tolist() for one in alone]

    draws = np.concatenate(engine.sample([prompts[0]] * 400, seeds=range(400), max_tokens=1))

    with torch.inference_mode():
        shares_V = network(torch.tensor([prompts[0]])).logits[0, -1].softmax(dim=-1).numpy()
    likeliest = int(shares_V.argmax())
    spread = (shares_V[likeliest] * (1 - shares_V[likeliest]) / 400) ** 0.5
    assert abs((draws == likeliest).mean() - shares_V[likeliest]) < 4 * spread
    assert len(set(draws.tolist())) > 1


SMALL = {"vocab_size": TINY_VOCABULARY, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
LOOKS_AHEAD = {
    "XLNet": lambda: XLNetConfig(**SMALL, d_model=64, n_layer=2, n_head=2, d_inner=128, initializer_range=0.2),
    "XLM": lambda: XLMConfig(**SMALL, emb_dim=64, n_layers=2, n_heads=2, init_std=0.2),
    "Gemma 3 as an encoder": lambda: Gemma3TextConfig(
        **SMALL,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        initializer_range=0.2,
        use_bidirectional_attention=True,
    ),
}


@pytest.mark.parametrize("name", LOOKS_AHEAD)
def test_a_model_whose_logits_depend_on_what_follows_is_refused(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LOOKS_AHEAD[name]()).save_pretrained(tmp_path)

    with pytest.raises(ModelError, match="reads a text from both ends"):
        start(tmp_path)


def test_a_network_that_transformers_cannot_run_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("The size of tensor a (39) must match the size of tensor b (33)")

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", fails)

    with pytest.raises(ModelError, match=r"transformers cannot run .*: The size of tensor a"):
        start(tiny_model)


def test_a_config_that_asks_for_the_routers_loss_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    experts = MixtralConfig(
        **SMALL,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
    )
    AutoModelForCausalLM.from_config(experts).save_pretrained(tmp_path)
    asked = [[*range(10, 20), *tail] for tail in TAILS]

    together = start(tmp_path).continue_greedily(asked, max_tokens=2, top_k=K)
    alone = start(tmp_path, batch_rows=1).continue_greedily(asked, max_tokens=2, top_k=K)

    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.topk_logits, other.topk_logits, atol=TOLERANCE)


def test_a_model_that_gives_no_numbers_is_not_taken_for_one_that_knows_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"model.norm.weight": torch.full((64,), torch.nan)}, folder / "model.safetensors", {"format": "pt"}
    )
    options = EngineOptions(model=folder, dtype="float32", context_length=64, stop_ids=(), log_probabilities=True)
    engine = TransformersEngine(options)

    for ask in (
        lambda: engine.continue_greedily([[7, 8]], max_tokens=2),
        lambda: engine.sample([[7, 8]], seeds=[0], max_tokens=2),
        lambda: engine.log_probabilities([[7, 8]], [[9]]),
    ):
        with pytest.raises(EngineError, match="no numbers"):
            ask()
