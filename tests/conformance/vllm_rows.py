"""What vLLM says to the prompts of the matrix, or how it refuses an architecture; several engines in one process of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.plain import POSITIONS, SHAPES, K

from pipeline.isolation import in_own_process
from stages.errors import EngineError
from stages.language_model.engine import Continuation, EngineOptions, start_engine

CONTEXT = 160
# vLLM takes at most these at once, and gets the prompts four batches at a time.
BATCH_ROWS = 3


@dataclass(frozen=True)
class Told:
    """said: by prompt shape, each twice, since the second time prefixes are kept. refusal: one line each, else empty."""

    said: Mapping[str, Sequence[Sequence[Continuation]]]
    refusal: tuple[str, ...] = ()


def ask_until_refused(folders: Sequence[Path]) -> list[Told]:
    """Folder by folder, up to the first refusal: an engine that failed leaves its process unusable.

    A refusal is an answer in a fresh process only; what an earlier engine left behind may be its cause elsewhere.
    """
    told: list[Told] = []
    for folder in folders:
        try:
            engine = start_engine("vllm", EngineOptions(folder, "float32", CONTEXT, (2,), BATCH_ROWS))
        except EngineError as error:
            return told or [Told({}, (error.found, error.needed, error.next_step))]
        told.append(
            Told(
                {
                    shape: [engine.continue_greedily(prompts, max_tokens=POSITIONS, top_k=K) for _ in range(2)]
                    for shape, prompts in SHAPES.items()
                }
            )
        )
        del engine
    return told


def ask_vllm(folders: Sequence[Path]) -> list[Told]:
    """One answer per folder, in order."""
    told: list[Told] = []
    while len(told) < len(folders):
        told += in_own_process(ask_until_refused, list(folders[len(told) :]))
    return told
