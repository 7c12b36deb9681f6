"""What stage one and the evaluation ask of an inference engine, whichever it is.

Prompts (token ids) in, greedy continuations with Top-K raw logits out, in prompt order; for the evaluation also sampled
continuations, and how likely given ones are. Two engines give it: vLLM, and
transformers as the reference and for machines without vLLM. Importing this module loads neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from stages.errors import EngineError

EngineName = Literal["auto", "vllm", "transformers"]
Dtype = Literal["float32", "bfloat16", "float16"]
# log(Σ exp) over the vocabulary is 0 for log-probabilities; a model whose raw logits sum to that is a coincidence.
LOG_PROBABILITY_TOLERANCE = 1e-2
# Candidates that an engine fetches beyond K, so that ties at rank K are broken by id and not by the engine.
TIE_MARGIN = 8


@dataclass(frozen=True, eq=False)
class Continuation:
    """What the model said after one prompt.

    token_ids: int32 [T], greedy, up to and including the end-of-turn token.
    topk_ids, topk_logits: int32 and float32 [T, K], raw logits, sorted by logit descending, then id ascending.
    K = 0 if none were asked for. With EngineOptions.log_probabilities they are log-probabilities.
    ended: the model ended its turn itself; False if max_tokens cut it off.
    """

    token_ids: np.ndarray
    topk_ids: np.ndarray
    topk_logits: np.ndarray
    ended: bool = True


@dataclass(frozen=True)
class EngineOptions:
    """What an engine needs to know before it starts.

    context_length: most tokens of one prompt and its continuation.
    batch_rows: prompts in flight at once; bounds memory.
    log_probabilities: for the evaluation, which compares tokens and never matches logits: Top-K values are
    log-probabilities, and `log_probabilities` can be asked. Capturing needs raw logits, and so False.
    """

    model: Path
    dtype: Dtype
    context_length: int
    stop_ids: tuple[int, ...]
    batch_rows: int = 64
    gpus: int = 1
    log_probabilities: bool = False


class EngineOutOfMemory(EngineError):
    """Too many prompts in flight: fewer may fit. vLLM never raises it, since it admits what its memory holds."""


class Engine(Protocol):
    """A loaded model that continues prompts.

    batch_rows: prompts in flight at once; may be lowered between calls.
    """

    name: str
    version: str
    hardware: str
    batch_rows: int

    def continue_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        top_k: int = 0,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Continuation]:
        """One continuation per prompt, in order. advance: told how many prompts were finished since it was last called.

        Raises EngineOutOfMemory; the engine can then be asked again.
        """
        ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_tokens: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        """One continuation per prompt, drawn at temperature 1 with a seed of its own: int32 [T] each, in order.

        The same seed gives the same draw on the same engine and machine, up to the rounding that another batch brings.
        """
        ...

    def log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        """Of each given continuation, token by token after its prompt, the natural log-probability: float32 [T].

        Neither may be empty. Raises EngineError if the engine was not started for log-probabilities.
        """
        ...

    def whole_vocabulary(self, prompt: Sequence[int]) -> np.ndarray:
        """float32 [V]: the values that the engine calls logits, for the first token after the prompt."""
        ...


def start_engine(name: EngineName, options: EngineOptions) -> Engine:
    """Load the model. `auto` is vLLM where it is installed.

    An engine in vLLM keeps its memory until the process ends, so one process starts one engine.
    Raises EngineError if the engine asked for is not installed, or cannot load the model.
    """
    if name == "auto":
        name = "vllm" if vllm_is_installed() else "transformers"
    if name == "vllm":
        if not vllm_is_installed():
            raise EngineError(
                "The setting model.engine is vllm, and vLLM is not installed.",
                "Nothing was run with another engine instead.",
                "Use the reference engine:  --set model.engine=transformers",
            )
        from stages.language_model.vllm_engine import VllmEngine

        return VllmEngine(options)
    from stages.language_model.transformers_engine import TransformersEngine

    return TransformersEngine(options)


def vllm_is_installed() -> bool:
    """Whether the module is there; it is not imported."""
    import importlib.util

    return importlib.util.find_spec("vllm") is not None


def refuse_raw_logits(options: EngineOptions) -> None:
    """Raise EngineError unless the engine was started for log-probabilities: logits are no likelihood."""
    if not options.log_probabilities:
        raise EngineError(
            "The engine was started for raw logits, and was asked how likely a text is.",
            "Raw logits of different positions cannot be compared, so nothing was scored.",
            "Start it with EngineOptions(log_probabilities=True).",
        )


def refuse_log_probabilities(engine: Engine, prompt: Sequence[int]) -> None:
    """Probe that the engine's values are raw logits: fail closed, since both look alike row by row.

    Raises EngineError if the values over the whole vocabulary are log-probabilities.
    """
    values_V = engine.whole_vocabulary(prompt).astype(np.float64)
    top = values_V.max()
    if not np.isfinite(top):
        raise not_numbers("The teacher")
    log_sum = top + np.log(np.exp(values_V - top).sum())
    if abs(log_sum) < LOG_PROBABILITY_TOLERANCE:
        raise EngineError(
            f"{engine.name} {engine.version} gives log-probabilities (log-sum-exp {log_sum:.4f}) where raw logits were asked for.",
            "DUET matches raw logits; on log-probabilities it would train something else, so nothing was captured.",
            "Install vllm >= 0.26, or use the reference engine:  --set model.engine=transformers",
        )


def not_numbers(model: str) -> EngineError:
    """The error for a model whose logits are NaN or infinite."""
    return EngineError(
        f"{model} gives logits that are no numbers (NaN or infinite).",
        "Its answers would say nothing of what it knows, so they were not kept.",
        "Try another dtype (--set model.dtype=float32), or copy or train the model again.",
    )


def sort_candidates(ids_TN: np.ndarray, logits_TN: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first K of N ≥ K candidates per position, by logit descending and id ascending.

    bf16 logits tie often; the second key makes the order independent of the engine.
    """
    order = np.lexsort((ids_TN, -logits_TN), axis=-1)[:, :top_k]
    ids_TK = np.take_along_axis(ids_TN, order, axis=-1).astype(np.int32)
    return ids_TK, np.take_along_axis(logits_TN, order, axis=-1).astype(np.float32)


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    # What the least and the greatest have in common, all between them have, too.
    least, greatest = min(map(list, prompts)), max(map(list, prompts))
    pairs = zip(least, greatest, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(least), len(greatest)))
