"""Batches as a network of transformers reads them: rows of token ids in, logits at their ends out.

Each row's logits are those of one plain forward pass over that row alone. Where the architecture is known to take padding
(architectures.py), rows of different length are padded on the left, and what all begin with is read once; physically it
stands where it would stand if each whole row were padded, so that no padding ever comes between two tokens of a row.
Elsewhere rows of one length go together, without padding. Decoding keeps keys and values, and states where that is known to
change nothing; a network that gives nothing else to keep reads the whole rows again for every token.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from stages.language_model.architectures import arguments_for, keeps_states, own_network, takes_padding
from stages.language_model.engine import shared_length

# Layers that keep keys and values alone.
PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)
# Layers of which rows can be selected. A cache with any other keeps all its rows to the end.
SELECTABLE = (*PLAIN, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
# What transformers' networks call the cache that they take and give.
CACHE_NAMES = ("past_key_values", "cache_params")


class Beginning:
    """What all rows begin with, read once: a cache of one row, of `length` tokens; of none if nothing is shared."""

    def __init__(self, length: int = 0, cache: DynamicCache | None = None) -> None:
        self.length = length
        self._cache = cache

    def under(self, starts: torch.Tensor) -> DynamicCache:
        """A cache with as many rows as `starts` (int64 [B]): in each the beginning's first tokens, moved to the right.

        starts: the place of each row's first token. What would be pushed off the end is left out; what stands before the
        first token is to be masked.
        """
        # Without a config all layers keep all tokens: a window is a matter of the mask.
        moved = DynamicCache()
        if self._cache is not None:
            places_BS = (torch.arange(self.length, device=starts.device) - starts[:, None]).clamp(min=0)
            for layer in self._cache.layers:
                own = DynamicLayer()
                own.lazy_initialization(layer.keys, layer.values)
                # Put in, not given to `update`, which would copy it once more.
                own.keys, own.values = _gathered(layer.keys, places_BS), _gathered(layer.values, places_BS)
                moved.layers.append(own)
        return moved


def _gathered(states_1HSD: torch.Tensor, places_BS: torch.Tensor) -> torch.Tensor:
    return states_1HSD[0][:, places_BS].transpose(0, 1)


class Reader:
    """A network that reads batches. padded: whether rows of different length may stand in one."""

    def __init__(self, network: Any, pad_id: int = 0) -> None:
        self.network, self.pad_id = network, pad_id
        self.padded = takes_padding(own_network(network))
        self.device = own_network(network).device

    def batches(self, lengths: Sequence[int], batch_rows: int) -> Iterator[list[int]]:
        """Row numbers in batches of like length, shortest first; of one length where padding is not known to be harmless."""
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        batch: list[int] = []
        for row in order:
            # RWKV in transformers 5.19 mixes rows of a single token up: such rows go alone.
            differs = batch and not self.padded and (lengths[row] != lengths[batch[0]] or lengths[row] == 1)
            if len(batch) == batch_rows or differs:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def begin_once(self, rows: Sequence[Sequence[int]], own: Sequence[int]) -> Beginning:
        """Read what all rows begin with, if padding is known to be harmless. own: how many last tokens each row keeps."""
        if not self.padded:
            return Beginning()
        shared = min(
            shared_length(rows), *(len(row) - least for row, least in zip(rows, own, strict=True)), len(rows[0])
        )
        if shared <= 0:
            return Beginning()
        cache = DynamicCache()
        _call(self.network, torch.tensor([list(rows[0][:shared])], device=self.device), keep=1, past_key_values=cache)
        return Beginning(shared, cache)

    def read(self, rows: Sequence[Sequence[int]], beginning: Beginning, *, keep: int) -> "Reading":
        """Read a batch of `batches`. keep: at how many last positions logits are wanted; no row may be shorter."""
        return (PaddedReading if self.padded else EvenReading)(self, rows, beginning, keep)

    def last_logits(self, row: Sequence[int]) -> torch.Tensor:
        """[V]: one plain forward pass over one row, its last position."""
        logits_BLV: torch.Tensor = _call(self.network, self.tensor([row]), keep=1, use_cache=False).logits
        return logits_BLV[0, -1]

    def logits(self, row: Sequence[int]) -> torch.Tensor:
        """[L, V]: one plain forward pass over one row, all of its positions."""
        logits_BLV: torch.Tensor = _call(self.network, self.tensor([row]), keep=len(row), use_cache=False).logits
        return logits_BLV[0]

    def tensor(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of one length on the network's device: int64 [B, L]."""
        return torch.tensor([list(row) for row in rows], device=self.device)


class Reading:
    """A batch that has been read, and that can be gone on with token by token.

    logits_BLV: at the last positions of each row that is still in the batch, in the order of the rows.
    """

    logits_BLV: torch.Tensor

    def go_on(self, next_B: torch.Tensor, kept: torch.Tensor) -> None:
        """Read one further token of the kept rows; the others leave. next_B: of the kept rows. kept: places, rising."""
        raise NotImplementedError


class PaddedReading(Reading):
    """Rows padded on the left, behind the beginning."""

    def __init__(self, reader: Reader, rows: Sequence[Sequence[int]], beginning: Beginning, keep: int) -> None:
        self._network = reader.network
        longest = max(map(len, rows))
        # Every row gives as many tokens to this pass, the last ones; those before come from the beginning.
        width = longest - beginning.length
        fed = [list(row[-width:]) for row in rows]
        input_BL = reader.tensor([[reader.pad_id] * (width - len(row)) + row for row in fed])
        starts = torch.tensor([longest - len(row) for row in rows], device=reader.device)
        self._mask_BL = (torch.arange(longest, device=reader.device) >= starts[:, None]).long()
        self._cache = beginning.under(starts)
        self._forward(input_BL, keep)

    def go_on(self, next_B: torch.Tensor, kept: torch.Tensor) -> None:
        if len(kept) < len(self._mask_BL):
            self._mask_BL = self._mask_BL[kept]
            self._cache.batch_select_indices(kept)
        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(kept), 1)], dim=1)
        self._forward(next_B[:, None], 1)

    def _forward(self, input_BL: torch.Tensor, keep: int) -> None:
        positions_BL = (self._mask_BL.cumsum(dim=1) - 1).clamp(min=0)[:, -input_BL.shape[1] :]
        read = {"attention_mask": self._mask_BL, "position_ids": positions_BL, "past_key_values": self._cache}
        self.logits_BLV = _call(self._network, input_BL, keep=keep, use_cache=True, **read).logits[:, -keep:]


class EvenReading(Reading):
    """Rows of one length: no padding, no mask, and the network's own cache, if it gives one that it takes again."""

    def __init__(self, reader: Reader, rows: Sequence[Sequence[int]], beginning: Beginning, keep: int) -> None:
        self._network = reader.network
        self._read_BL = reader.tensor(rows)
        # Where in the cache each row stands that is still in the batch.
        self._places = torch.arange(len(rows), device=reader.device)
        self._cache: dict[str, Cache] = {}
        self._forward(self._read_BL, keep)

    def go_on(self, next_B: torch.Tensor, kept: torch.Tensor) -> None:
        self._read_BL = torch.cat([self._read_BL[kept], next_B[:, None]], dim=1)
        if not self._cache:
            self._places = torch.arange(len(kept), device=kept.device)
            self._forward(self._read_BL, 1)
            return
        # Rows that have ended stay in a cache that gives no row away, and read anything.
        input_B = next_B.new_zeros(self._cached_rows)
        self._places = self._places[kept]
        (cache,) = self._cache.values()
        if (
            len(kept) < self._cached_rows
            and type(cache) is DynamicCache
            and all(type(layer) in SELECTABLE for layer in cache.layers)
        ):
            cache.reorder_cache(self._places)
            self._places, input_B = torch.arange(len(kept), device=kept.device), next_B
        else:
            input_B[self._places] = next_B
        self._forward(input_B[:, None], 1)

    def _forward(self, input_BL: torch.Tensor, keep: int) -> None:
        self._cached_rows = len(input_BL)
        told = _call(self._network, input_BL, keep=keep, use_cache=True, **self._cache)
        self._cache = {}
        for name in CACHE_NAMES:
            cache = getattr(told, name, None)
            if isinstance(cache, Cache) and arguments_for(self._network, **{name: cache}) and self._decodes_from(cache):
                self._cache = {name: cache}
        self.logits_BLV = told.logits[:, -keep:][self._places]

    def _decodes_from(self, cache: Cache) -> bool:
        # A cache of the architecture's own may keep states beside its layers.
        is_plain = type(cache) is DynamicCache and all(type(layer) in PLAIN for layer in cache.layers)
        return is_plain or keeps_states(own_network(self._network))


def _call(network: Any, input_BL: torch.Tensor, *, keep: int, **more: Any) -> Any:
    """The forward pass with those of the arguments that it takes; the last `keep` positions of its logits are needed."""
    # A router's own loss, for which a config may ask, fails where a mask is longer than what is read.
    return network(input_BL, **arguments_for(network, logits_to_keep=keep, output_router_logits=False, **more))
