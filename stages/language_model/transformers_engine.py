"""The transformers engine: slower, everywhere, and the reference that vLLM is tested against.

Decoding in batches, greedy or drawn. How a batch goes through the network is told in reading.py.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from stages.errors import ModelError
from stages.language_model.architectures import own_network, refuse_varying_rotary
from stages.language_model.engine import (
    TIE_MARGIN,
    Continuation,
    EngineOptions,
    EngineOutOfMemory,
    not_numbers,
    refuse_raw_logits,
    sort_candidates,
)
from stages.language_model.hardware import describe_hardware
from stages.language_model.loading import BROKEN, in_one_line, load_network
from stages.language_model.reading import Beginning, Reader

# As torch says it on a GPU, on Linux, on Windows, and in C++.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")

# Two texts that differ in their last token alone, in places of the vocabulary.
PROBED_TEXTS = ((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7))
# How far the logits before it may differ, as a share of the largest: rounding, and an expert that it exchanges for another.
LOOKING_AHEAD = 5e-2


class TransformersEngine:
    """An `Engine` on transformers, on the GPU if there is one.

    network: a model that is in memory already, instead of the one in the options' folder; it is put into evaluation mode.
    Raises ModelError if the model cannot be loaded, cannot run, or reads a text from both ends; EngineError if its rows would
    depend on each other.
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
        refuse_varying_rotary(own_network(loaded).config.get_text_config(), options.context_length)
        self._model = loaded.to(self._device).eval()
        self._reader = Reader(self._model, int(self._stop_ids[0]) if len(self._stop_ids) else 0)
        self._refuse_looking_ahead()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _refuse_looking_ahead(self) -> None:
        """Raise ModelError if what follows a token changes its logits: XLNet and XLM are causal by name alone."""
        size = own_network(self._model).config.get_text_config().vocab_size
        try:
            with memory_named(batch_rows=1):
                one_LV, other_LV = (
                    self._reader.logits([place % size for place in text]).float()[:-1] for text in PROBED_TEXTS
                )
        except BROKEN as error:
            raise ModelError(
                f"transformers cannot run {self._options.model}: {in_one_line(error)}",
                "Nothing was asked.",
                "Name another model with --set model.path=…",
            ) from error
        difference = (one_LV - other_LV).abs().mean(dim=-1).max() / one_LV.abs().max()
        # Logits that are no numbers are named with the query that has them.
        if difference > LOOKING_AHEAD:
            raise ModelError(
                f"{self._options.model} reads a text from both ends: a token's logits change with what follows it.",
                "DUET unlearns in models that continue a text, so nothing was asked.",
                "Name a causal language model with --set model.path=…",
            )

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def continue_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        top_k: int = 0,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Continuation]:
        def decode(rows: Sequence[int], beginning: Beginning) -> list[Continuation]:
            return self._decode([prompts[row] for row in rows], beginning, max_tokens, top_k)

        return self._in_batches(prompts, [1] * len(prompts), decode, advance)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_tokens: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        def decode(rows: Sequence[int], beginning: Beginning) -> list[np.ndarray]:
            draws = [torch.Generator().manual_seed(seeds[row]) for row in rows]
            chosen = [prompts[row] for row in rows]
            return [one.token_ids for one in self._decode(chosen, beginning, max_tokens, 0, draws)]

        return self._in_batches(prompts, [1] * len(prompts), decode, advance)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        refuse_raw_logits(self._options)

        # The last token is only predicted, never read.
        texts = [[*prompt, *given[:-1]] for prompt, given in zip(prompts, continuations, strict=True)]

        def score(rows: Sequence[int], beginning: Beginning) -> list[np.ndarray]:
            longest = max(len(continuations[row]) for row in rows)
            logits_BLV = self._reader.read([texts[row] for row in rows], beginning, keep=longest).logits_BLV
            found = []
            for place, row in enumerate(rows):
                ids_T = torch.tensor(list(continuations[row]), device=self._device)
                logits_TV = logits_BLV[place, -len(ids_T) :].float()
                self._refuse_nan(logits_TV)
                chosen_T = logits_TV.gather(1, ids_T[:, None])[:, 0] - logits_TV.logsumexp(dim=-1)
                found.append(chosen_T.cpu().numpy())
            return found

        return self._in_batches(texts, [len(given) for given in continuations], score, advance)

    def _in_batches(
        self,
        texts: Sequence[Sequence[int]],
        own: Sequence[int],
        run: Callable[[Sequence[int], Beginning], list[Any]],
        advance: Callable[[int], None],
    ) -> list[Any]:
        """run(rows, beginning) on batches of like length; each result goes back to its text's place.

        own: how many last tokens of each text have logits that are needed. beginning: what all texts begin with.
        """
        if not texts:
            return []
        found: dict[int, Any] = {}
        with memory_named(self.batch_rows):
            beginning = self._reader.begin_once(texts, own)
            for chosen in self._reader.batches([len(text) for text in texts], self.batch_rows):
                found.update(zip(chosen, run(chosen, beginning), strict=True))
                advance(len(chosen))
        return [found[index] for index in range(len(texts))]

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def whole_vocabulary(self, prompt: Sequence[int]) -> np.ndarray:
        with memory_named(batch_rows=1):
            values_V: np.ndarray = self._reader.last_logits(prompt).float().cpu().numpy()
        return values_V

    def _decode(
        self,
        prompts: list[Sequence[int]],
        beginning: Beginning,
        max_tokens: int,
        top_k: int,
        draws: Sequence[torch.Generator] = (),
    ) -> list[Continuation]:
        """Greedy where there are no draws, else each row's next token from its own draw."""
        said: list[list[int]] = [[] for _ in prompts]
        candidates: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in prompts]
        # The rows that still speak. One that has ended leaves the batch, or the longest answer would cost all of them.
        speaking = np.arange(len(prompts))
        reading = self._reader.read(prompts, beginning, keep=1)
        for place in range(max_tokens):
            logits_BV = reading.logits_BLV[:, -1]
            if not top_k:  # who asks for candidates looks at them, and can name the row
                self._refuse_nan(logits_BV)
            next_B = _drawn(logits_BV, [draws[row] for row in speaking.tolist()]) if draws else logits_BV.argmax(dim=-1)
            chosen = next_B.cpu().numpy()
            for row, token in zip(speaking, chosen, strict=True):
                said[row].append(int(token))
            if top_k:
                for row, ids_K, logits_K in zip(speaking, *self._candidates(logits_BV, top_k), strict=True):
                    candidates[row].append((ids_K, logits_K))
            going_on = np.flatnonzero(~np.isin(chosen, self._stop_ids))
            if not len(going_on) or place + 1 == max_tokens:
                break
            kept = torch.from_numpy(going_on).to(self._device)
            reading.go_on(next_B[kept], kept)
            speaking = speaking[going_on]
        return [
            _continuation(ids, kept, top_k, ended=ids[-1] in self._options.stop_ids)
            for ids, kept in zip(said, candidates, strict=True)
        ]

    def _refuse_nan(self, logits_BV: torch.Tensor) -> None:
        """Raise EngineError for logits that are no numbers: the model would seem to have forgotten everything."""
        # One that is NaN or infinite makes the largest so, and every probability NaN; one of −∞ alone is a token left out.
        if not logits_BV.amax(dim=-1).isfinite().all():
            raise not_numbers(str(self._options.model))

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


def _continuation(
    ids: list[int], kept: list[tuple[np.ndarray, np.ndarray]], top_k: int, *, ended: bool
) -> Continuation:
    if not top_k:
        empty = np.empty((len(ids), 0))
        return Continuation(np.array(ids, dtype=np.int32), empty.astype(np.int32), empty.astype(np.float32), ended)
    return Continuation(
        np.array(ids, dtype=np.int32),
        np.stack([ids_K for ids_K, _ in kept]),
        np.stack([logits_K for _, logits_K in kept]),
        ended,
    )
