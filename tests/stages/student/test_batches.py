"""Rows in, left-padded tensors out; and the cached logits stand where the student computes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
)

from stages.logit_cache.rows import Row, example_id
from stages.student.batches import collate
from stages.student.objective import student_logits, supervised_logits, topk_huber

PAD = 9


def row(student: list[int], response: list[int], split: str = "forget") -> Row:
    positions = len(response)
    return Row(
        example_id=example_id(str(student)),
        split=split,  # type: ignore[arg-type]
        query=str(student),
        student_input_ids=np.array(student, dtype=np.int32),
        response_ids=np.array(response, dtype=np.int32),
        student_positions=np.arange(len(student) - 1, len(student) - 1 + positions, dtype=np.int32),
        topk_ids=np.arange(2 * positions, dtype=np.int32).reshape(positions, 2),
        topk_logits=-np.arange(2 * positions, dtype=np.float32).reshape(positions, 2),
    )


def test_a_batch_worked_out_by_hand() -> None:
    batch = collate([row([1, 2, 3], [4, 5]), row([6], [7], "retain")], pad_id=PAD)

    # The last response token is predicted, never read.
    assert batch.input_BL.tolist() == [[1, 2, 3, 4], [PAD, PAD, PAD, 6]]
    assert batch.mask_BL.tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert batch.positions_BL.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert batch.taught_BT.tolist() == [[True, True], [False, True]]
    assert batch.topk_ids_BTK.tolist() == [[[0, 1], [2, 3]], [[0, 0], [0, 1]]]
    assert batch.teacher_BTK.tolist() == [[[0, -1], [-2, -3]], [[0, 0], [0, -1]]]
    assert batch.forget_B.tolist() == [True, False]


def test_what_all_rows_begin_with_stands_in_the_batch_once() -> None:
    rows = [row([1, 2, 3, 8], [4, 5]), row([1, 2, 3], [7], "retain")]

    batch = collate(rows, pad_id=PAD, share_from=2)

    # Of a row that begins all others one token stays its own: its first logits come from there.
    assert batch.shared_S.tolist() == [1, 2]
    assert batch.input_BL.tolist() == [[3, 8, 4], [PAD, PAD, 3]]
    assert batch.mask_BL.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.positions_BL.tolist() == [[2, 3, 4], [2, 2, 2]]
    assert batch.tokens == collate(rows, pad_id=PAD).tokens == 8
    assert not len(collate(rows, pad_id=PAD, share_from=3).shared_S), "it saves two tokens"
    assert not len(collate(rows[:1], pad_id=PAD, share_from=1).shared_S), "one row shares nothing"


@pytest.mark.parametrize("kind", ["full", "soft-capped"])
def test_logits_and_gradients_are_those_of_reading_the_beginning_in_every_row(tiny_model: Path, kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    if kind == "soft-capped":
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
        config = Gemma2Config(vocab_size=512, num_attention_heads=2, num_key_value_heads=1, sliding_window=64, **sizes)
        model = AutoModelForCausalLM.from_config(config).double()
    begin = list(range(20, 50))
    rows = [
        row([*begin, 3, 8], [4, 5, 6]),
        row([*begin, 7], [7], "retain"),
        row([*begin, 5, 5, 6, 9, 9], [1, 2]),
        row([*begin, 3], [4, 5]),
    ]
    found = []
    for share_from in (None, 1):
        model.zero_grad()
        batch = collate(rows, pad_id=PAD, share_from=share_from)
        logits_BTK = student_logits(model, batch)
        topk_huber(logits_BTK, batch.teacher_BTK, batch.taught_BT, delta=1.0).mean().backward()
        gradients = {name: each.grad.clone() for name, each in model.named_parameters()}
        found.append((logits_BTK[batch.taught_BT], gradients, len(batch.shared_S)))

    (whole, expected, none), (shared, gradients, count) = found
    assert (none, count) == (0, len(begin))
    torch.testing.assert_close(shared, whole, atol=1e-5, rtol=0)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, atol=1e-6, rtol=1e-5, msg=name)
    assert expected["model.embed_tokens.weight"][begin].abs().max() > 1e-3, (
        "or nothing would be learnt from the beginning"
    )


def test_moving_a_batch_keeps_its_names() -> None:
    batch = collate([row([1], [2])], pad_id=PAD)

    moved = batch.to(torch.device("meta"))

    assert moved.example_ids == batch.example_ids == (example_id("[1]"),)
    assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}


def own_logits(model: torch.nn.Module, one: Row) -> torch.Tensor:
    """All logits of one row read alone, without padding, at the positions that the row itself names: [T, V]."""
    ids = np.concatenate([one.student_input_ids, one.response_ids]).astype(np.int64)
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)[None]).logits[0, one.student_positions.astype(np.int64)]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1]])
def test_the_student_is_compared_where_the_row_says_whatever_stands_beside_it(
    tiny_model: Path, order: list[int]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = [row([5, 6, 7, 8, 3], [40, 41, 42]), row([30], [31]), row([50, 51, 52], [60, 61])]
    chosen = [rows[index] for index in order]

    with torch.no_grad():
        found_BTK = student_logits(model, collate(chosen, pad_id=0))

    for index, one in enumerate(chosen):
        expected = own_logits(model, one).gather(-1, torch.from_numpy(one.topk_ids.astype(np.int64)))
        torch.testing.assert_close(found_BTK[index, -len(one.response_ids) :], expected, atol=2e-5, rtol=0)


def test_only_the_supervised_positions_reach_the_language_model_head(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    seen: list[torch.Size] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))

    student_logits(model, collate([row([5, 6, 7, 8, 3], [40, 41]), row([30], [31])], pad_id=0))

    assert seen == [torch.Size([2, 2, 512])]


def test_the_network_is_given_the_mask_and_keeps_only_what_is_read_once() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_local_experts": 2}
    config = MixtralConfig(
        vocab_size=16, num_attention_heads=2, num_key_value_heads=1, output_router_logits=True, **sizes
    )
    model = AutoModelForCausalLM.from_config(config)
    seen: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda module, inputs, given: seen.append(given), with_kwargs=True)
    rows = [row([1, 2, 3, 8], [4, 5]), row([1, 2, 3], [7])]

    student_logits(model, collate(rows, pad_id=PAD))
    student_logits(model, collate(rows, pad_id=PAD, share_from=1))

    whole, beginning, rest = seen
    assert whole["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    # Read once are tokens 1 and 2; behind them every row sees both, and of itself what is not padding.
    assert beginning["input_ids"].tolist() == [[1, 2]]
    assert rest["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]]
    assert [each["use_cache"] for each in seen] == [False, True, True]
    assert [each["logits_to_keep"] for each in seen] == [2, 1, 2]
    assert not any(each["output_router_logits"] for each in seen)


class LogitsEverywhere(MambaForCausalLM):
    """A network that cannot be told where logits are wanted."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool | None = None) -> Any:
        return super().forward(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("kind", [MambaForCausalLM, LogitsEverywhere])
def test_a_network_that_takes_no_padding_reads_each_row_alone(kind: type[MambaForCausalLM]) -> None:
    torch.manual_seed(0)
    # Initialised so that a state, and with it what was read before, weighs something.
    model = kind(
        MambaConfig(vocab_size=64, hidden_size=8, state_size=4, num_hidden_layers=1, initializer_range=1.0)
    ).eval()
    seen: list[dict[str, Any]] = []
    model.register_forward_pre_hook(lambda module, inputs, given: seen.append(given), with_kwargs=True)
    rows = [row([5, 6, 7, 8, 3], [40]), row([30], [31, 32, 33]), row([50, 51, 52], [60, 61])]

    with torch.no_grad():
        found_BTV = supervised_logits(model, collate(rows, pad_id=PAD))

    assert [each["input_ids"].tolist() for each in seen] == [[[5, 6, 7, 8, 3]], [[30, 31, 32]], [[50, 51, 52, 60]]]
    assert not any(each["use_cache"] for each in seen)
    assert found_BTV.shape == (3, 3, 64)
    for index, one in enumerate(rows):
        taught = len(one.response_ids)
        torch.testing.assert_close(found_BTV[index, -taught:], own_logits(model, one), atol=1e-5, rtol=0)
        assert not found_BTV[index, :-taught].any()


class NamesNoPlaces(LlamaForCausalLM):
    """A network that takes padding, and cannot be told where logits are wanted."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)


def test_a_network_that_computes_logits_everywhere_gives_those_of_the_supervised_positions(tiny_model: Path) -> None:
    model = NamesNoPlaces.from_pretrained(tiny_model).eval()
    one = row([5, 6, 7, 8, 3], [40, 41])

    with torch.no_grad():
        found_BTV = supervised_logits(model, collate([one], pad_id=0))

    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    torch.testing.assert_close(found_BTV[0], own_logits(plain, one), atol=2e-5, rtol=0)
