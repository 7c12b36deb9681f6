"""What a row ought to be: one plain forward pass of transformers over that row's prompt alone, and how far an engine is off."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.language_model.engine import Continuation

K, POSITIONS = 5, 3
# float32, logits of up to ten. What differs is the order of sums; gated delta nets add up in chunks, and token by token.
TOLERANCE = 2e-4
TOLERANCES = {"Qwen3-Next": 3e-3}
# Two engines differ more than one does from itself.
ENGINE_TOLERANCE = 2e-3


def _shapes() -> dict[str, list[list[int]]]:
    draw = random.Random(0)

    def some(count: int) -> list[int]:
        return [draw.randrange(8, 500) for _ in range(count)]

    prefix = some(70)
    return {
        "a long shared prefix, tails of 1 to 40 tokens": [prefix + some(count) for count in (1, 5, 17, 40, 2, 5)],
        "nothing shared, rows of 1 to 60 tokens": [some(count) for count in (1, 2, 9, 30, 60, 60, 9)],
        "a short shared prefix, one long tail": [prefix[:3] + some(count) for count in (1, 2, 50)],
        "one prompt begins the others": [prefix[:12], prefix[:12] + some(1), prefix[:30]],
        "duplicates": [prefix[:20]] * 3 + [some(20)],
        "a single prompt": [some(33)],
    }


SHAPES = _shapes()


@dataclass(frozen=True)
class Distance:
    """How far an engine's rows are from plain passes, over all its positions.

    logits: greatest difference of a Top-K logit. ranks: Top-K sets and greedy tokens that differ though no two logits tie.
    """

    logits: float
    ranks: int
    positions: int


def plain_logits(network: Any, ids: Sequence[int]) -> np.ndarray:
    """[L, V]: one forward pass over the ids alone, without a cache."""
    import torch

    with torch.inference_mode():
        logits: np.ndarray = network(torch.tensor([list(ids)]), use_cache=False).logits[0].float().numpy()
    return logits


def distance(network: Any, prompts: Sequence[Sequence[int]], said: Sequence[Continuation], tie: float) -> Distance:
    """The distance of what an engine said after the prompts. tie: how close two logits are that may change places."""
    worst, ranks, positions = 0.0, 0, 0
    for prompt, one in zip(prompts, said, strict=True):
        whole_LV = plain_logits(network, [*prompt, *one.token_ids.tolist()])
        for place, token in enumerate(one.token_ids.tolist()):
            logits_V = whole_LV[len(prompt) - 1 + place]
            ids_K = one.topk_ids[place]
            worst = max(worst, float(np.abs(logits_V[ids_K] - one.topk_logits[place]).max()))
            least = np.sort(logits_V)[-len(ids_K)]
            ranks += bool(logits_V[ids_K].min() < least - tie) + bool(logits_V[token] < logits_V.max() - tie)
            positions += 1
    return Distance(worst, ranks, positions)
