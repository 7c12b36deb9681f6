"""The transformers engine: slower, everywhere, and the reference that vLLM is tested against.

Decoding in left-padded batches, greedy or drawn. The tokens that all prompts share are read once and their keys and values
repeated, since a long unlearning prefix in front of short queries is the common case.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from transformers import DynamicCache, PreTrainedModel

from stages.language_model.engine import (
    TIE_MARGIN,
    Continuation,
    EngineOptions,
    EngineOutOfMemory,
    refuse_raw_logits,
    shared_length,
    sort_candidates,
)
from stages.language_model.hardware import describe_hardware
from stages.language_model.loading import load_network

# As torch says it on a GPU, on Linux, on Windows, and in C++.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")


class TransformersEngine:
    """An `Engine` on transformers, on the GPU if there is one.

    network: a model that is in memory already, instead of the one in the options' folder; it is put into evaluation mode.
    """

    name = "transformers"

    def __init__(self, options: EngineOptions, network: PreTrainedModel | None = None) -> None:
        self.version = transformers.__version__
        self.hardware = describe_hardware()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._options = options
        self._stop_ids = np.array(options.stop_ids)
        self.batch_rows = options.batch_rows
        loaded = load_network(options.model, options.dtype) if network is None else network
        self._model = loaded.to(self._device).eval()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def continue_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        top_k: int = 0,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Continuation]:
        def decode(rows: Sequence[int], shared: int, prefix: DynamicCache | None) -> list[Continuation]:
            return self._decode([prompts[row][shared:] for row in rows], prefix, shared, max_tokens, top_k)

        return self._in_batches(prompts, decode, advance)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_tokens: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        def decode(rows: Sequence[int], shared: int, prefix: DynamicCache | None) -> list[np.ndarray]:
            draws = [torch.Generator().manual_seed(seeds[row]) for row in rows]
            tails = [prompts[row][shared:] for row in rows]
            return [one.token_ids for one in self._decode(tails, prefix, shared, max_tokens, 0, draws)]

        return self._in_batches(prompts, decode, advance)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        refuse_raw_logits(self._options)

        def score(rows: Sequence[int], shared: int, prefix: DynamicCache | None) -> list[np.ndarray]:
            # The last token is only predicted, never read.
            tails = [[*prompts[row][shared:], *continuations[row][:-1]] for row in rows]
            longest = max(len(continuations[row]) for row in rows)
            logits_BLV = self._forward(*self._pack(tails, prefix, shared), keep=longest).logits
            found = []
            for place, row in enumerate(rows):
                ids_T = torch.tensor(list(continuations[row]), device=self._device)
                logits_TV = logits_BLV[place, -len(ids_T) :].float()
                chosen_T = logits_TV.gather(1, ids_T[:, None])[:, 0] - logits_TV.logsumexp(dim=-1)
                found.append(chosen_T.cpu().numpy())
            return found

        return self._in_batches(prompts, score, advance)

    def _in_batches(
        self,
        prompts: Sequence[Sequence[int]],
        run: Callable[[Sequence[int], int, DynamicCache | None], list[Any]],
        advance: Callable[[int], None],
    ) -> list[Any]:
        """run(rows, shared, prefix) on batches of like length; each result goes back to its prompt's place.

        shared, prefix: how many tokens all prompts begin with, and what the model has read of them.
        """
        if not prompts:
            return []
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, Any] = {}
        with memory_named(self.batch_rows):
            # Each prompt keeps a token of its own, from which its first logits come.
            shared = min(shared_length(prompts), min(len(prompt) for prompt in prompts) - 1)
            prefix = self._read(prompts[0][:shared]) if shared else None
            for start in range(0, len(order), self.batch_rows):
                chosen = order[start : start + self.batch_rows]
                found.update(zip(chosen, run(chosen, shared, prefix), strict=True))
                advance(len(chosen))
        return [found[index] for index in range(len(prompts))]

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def whole_vocabulary(self, prompt: Sequence[int]) -> np.ndarray:
        with memory_named(batch_rows=1):
            logits = self._model(torch.tensor([list(prompt)], device=self._device), logits_to_keep=1).logits
        values_V: np.ndarray = logits[0, -1].float().cpu().numpy()
        return values_V

    def _read(self, ids: Sequence[int]) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        self._model(torch.tensor([list(ids)], device=self._device), past_key_values=cache, logits_to_keep=1)
        return cache

    def _pack(
        self, tails: Sequence[Sequence[int]], prefix: DynamicCache | None, shared: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Left-padded ids, the mask over prefix and ids, and the cache with the prefix read once per row."""
        rows, width = len(tails), max(len(tail) for tail in tails)
        input_BL = torch.full((rows, width), int(self._stop_ids[0]) if len(self._stop_ids) else 0, device=self._device)
        mask_BL = torch.zeros((rows, shared + width), dtype=torch.long, device=self._device)
        mask_BL[:, :shared] = 1
        for row, tail in enumerate(tails):
            input_BL[row, width - len(tail) :] = torch.tensor(list(tail))
            mask_BL[row, shared + width - len(tail) :] = 1
        cache = DynamicCache(config=self._model.config)
        if prefix is not None:
            cache = copy.deepcopy(prefix)
            cache.batch_repeat_interleave(rows)
        return input_BL, mask_BL, cache

    def _forward(self, input_BL: torch.Tensor, mask_BL: torch.Tensor, cache: DynamicCache, *, keep: int) -> Any:
        positions_BL = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)[:, -input_BL.shape[1] :]
        return self._model(
            input_BL, attention_mask=mask_BL, position_ids=positions_BL, past_key_values=cache, logits_to_keep=keep
        )

    def _decode(
        self,
        tails: list[Sequence[int]],
        prefix: DynamicCache | None,
        shared: int,
        max_tokens: int,
        top_k: int,
        draws: Sequence[torch.Generator] = (),
    ) -> list[Continuation]:
        """Greedy where there are no draws, else each row's next token from its own draw."""
        input_BL, mask_BL, cache = self._pack(tails, prefix, shared)
        said: list[list[int]] = [[] for _ in tails]
        candidates: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in tails]
        # The rows that still speak. One that has ended leaves the batch, or the longest answer would cost all of them.
        speaking = np.arange(len(tails))
        for _ in range(max_tokens):
            logits_BV = self._forward(input_BL, mask_BL, cache, keep=1).logits[:, -1]
            next_B = _drawn(logits_BV, [draws[row] for row in speaking.tolist()]) if draws else logits_BV.argmax(dim=-1)
            chosen = next_B.cpu().numpy()
            for row, token in zip(speaking, chosen, strict=True):
                said[row].append(int(token))
            if top_k:
                for row, ids_K, logits_K in zip(speaking, *self._candidates(logits_BV, top_k), strict=True):
                    candidates[row].append((ids_K, logits_K))
            going_on = np.flatnonzero(~np.isin(chosen, self._stop_ids))
            if not len(going_on):
                break
            if len(going_on) < len(speaking):
                speaking, kept = speaking[going_on], torch.from_numpy(going_on).to(self._device)
                next_B, mask_BL = next_B[kept], mask_BL[kept]
                cache.batch_select_indices(kept)
            input_BL = next_B[:, None]
            mask_BL = torch.cat([mask_BL, mask_BL.new_ones(len(speaking), 1)], dim=1)
        return [_continuation(ids, kept, top_k) for ids, kept in zip(said, candidates, strict=True)]

    def _candidates(self, logits_BV: torch.Tensor, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Per row the ids [B, K] of the likeliest next tokens, and their logits or log-probabilities."""
        values_BV = logits_BV.float()
        if self._options.log_probabilities:
            values_BV = values_BV.log_softmax(dim=-1)
        top = values_BV.topk(min(top_k + TIE_MARGIN, values_BV.shape[-1]), dim=-1)
        return sort_candidates(top.indices.cpu().numpy(), top.values.cpu().numpy(), top_k)


def _drawn(logits_BV: torch.Tensor, draws: Sequence[torch.Generator]) -> torch.Tensor:
    """One token per row at temperature 1. On the CPU, so that a seed means the same on every device."""
    shares_BV = logits_BV.float().softmax(dim=-1).cpu()
    chosen = [torch.multinomial(shares_V, 1, generator=draw) for shares_V, draw in zip(shares_BV, draws, strict=True)]
    return torch.cat(chosen).to(logits_BV.device)


@contextmanager
def memory_named(batch_rows: int) -> Iterator[None]:
    """Raise EngineOutOfMemory in place of the many errors by which torch says that memory is exhausted."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        raise EngineOutOfMemory(
            f"The memory does not hold {batch_rows} prompts at once.",
            "Nothing was written of this shard.",
            "Use less:  --set model.batch_rows=1 or --set model.dtype=bfloat16, or a shorter prefix",
        ) from error


def _continuation(ids: list[int], kept: list[tuple[np.ndarray, np.ndarray]], top_k: int) -> Continuation:
    if not top_k:
        empty = np.empty((len(ids), 0))
        return Continuation(np.array(ids, dtype=np.int32), empty.astype(np.int32), empty.astype(np.float32))
    return Continuation(
        np.array(ids, dtype=np.int32),
        np.stack([ids_K for ids_K, _ in kept]),
        np.stack([logits_K for _, logits_K in kept]),
    )
