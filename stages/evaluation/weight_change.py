"""Two model folders in, how far the student's weights have moved from the base's out: layer by layer, no model loaded.

It tells where training acted, and whether a few layers took the whole change: a shallow edit is easier to undo.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from stages.errors import ModelError
from stages.language_model.loading import text_config
from stages.language_model.weights import opened, weight_files

WEIGHT_CHANGE_SCHEMA = {"layer": pl.String, "norm": pl.Float64, "relative": pl.Float64}
# A layer of the language model, as transformers' families number theirs; the other parts as they name them.
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
PARTS = {
    "embeddings": re.compile(r"(?:^|\.)(?:embed_tokens|embed_in|wte|wpe|word_embeddings|embed_positions)\.weight$"),
    "final_norm": re.compile(
        r"(?:^|\.)(?:norm|ln_f|norm_f|final_norm|final_layernorm|final_layer_norm)\.(?:weight|bias)$"
    ),
    "head": re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.(?:weight|bias)$"),
}
# Layers of an eye or an ear are numbered, too.
OTHER_SENSES = re.compile(r"(?:^|[._])(?:vision|visual|audio|image)")
# Tables that older files hold and that transformers computes anew.
IGNORED = re.compile(r"\.rotary_emb\.inv_freq$")
PIECE = 1 << 24  # numbers in memory at once, of each model


def weight_change(base: Path, student: Path) -> pl.DataFrame:
    """‖θ_student − θ_base‖₂ of every layer, and as a share of the layer's ‖θ_base‖₂; summed in float64.

    Rows, columns `WEIGHT_CHANGE_SCHEMA`, in the order of the flow: embeddings, layers "0" to "L−1", final_norm, head (where
    it is no copy of the embeddings, which count once), and other, for what is none of these; those that the model has.
    relative is null for a layer that was all zeros and is no longer.
    The files may be cut into shards in different ways, and may have different dtypes.
    Raises ModelError naming the first tensor that only one of them has, or that has another shape or no finite value.
    """
    files = {folder: _own_weights(folder) for folder in (base, student)}
    for one, other in ((base, student), (student, base)):
        if missing := sorted(files[one].keys() - files[other].keys()):
            raise _incomparable(f"{one} has a tensor {missing[0]}, which {other} lacks.")
    change: dict[str, float] = {}
    size: dict[str, float] = {}
    with ExitStack() as stack:
        handles = {
            path: stack.enter_context(opened(path)) for held in files.values() for path in dict.fromkeys(held.values())
        }
        for name, path in files[base].items():
            before, after = handles[path], handles[files[student][name]]
            part = part_of(name)
            moved, whole = _squares(name, before.get_slice(name), after.get_slice(name))
            change[part] = change.get(part, 0.0) + moved
            size[part] = size.get(part, 0.0) + whole
    rows = [
        {
            "layer": part,
            "norm": change[part] ** 0.5,
            "relative": (change[part] / size[part]) ** 0.5 if size[part] else None if change[part] else 0.0,
        }
        for part in sorted(change, key=_place)
    ]
    return pl.DataFrame(rows, schema=WEIGHT_CHANGE_SCHEMA)


def part_of(name: str) -> str:
    """The row that a tensor belongs to: "embeddings", the layer's number, "final_norm", "head" or "other"."""
    if OTHER_SENSES.search(name):
        return "other"
    if layer := LAYER.search(name):
        return layer[1]
    return next((part for part, pattern in PARTS.items() if pattern.search(name)), "other")


def _own_weights(folder: Path) -> Mapping[str, Path]:
    """The folder's tensors without those that transformers would not read: the head, where it is the embeddings."""
    files = {name: path for name, path in weight_files(folder).items() if not IGNORED.search(name)}
    heads = [name for name in files if part_of(name) == "head"]
    if heads and _is_tied(folder):
        files = {name: path for name, path in files.items() if name not in heads}
    return files


def _is_tied(folder: Path) -> bool:
    """Whether the head is the embeddings, as the config or its family's default has it."""
    return bool(text_config(folder).tie_word_embeddings)


def _squares(name: str, before: Any, after: Any) -> tuple[float, float]:
    """Sums of squares over one tensor: of what changed, and of what was there before. Read in pieces of its rows."""
    import torch

    shape = before.get_shape()
    if shape != after.get_shape():
        raise _incomparable(f"{name} has the shape {shape} in the base model and {after.get_shape()} in the student.")
    moved = whole = 0.0
    for rows in _pieces(shape):
        was, is_now = (torch.as_tensor(values[rows]).double() for values in (before, after))
        moved += float((is_now - was).square().sum())
        whole += float(was.square().sum())
    if not (moved < float("inf") and whole < float("inf")):
        raise _incomparable(f"{name} holds a weight that is no finite number, in the base model or in the student.")
    return moved, whole


def _pieces(shape: list[int]) -> Iterator[Any]:
    """Indices that cut a tensor along its rows into pieces of about `PIECE` numbers."""
    if not shape:
        yield ...
        return
    width = 1
    for length in shape[1:]:
        width *= length
    step = max(PIECE // max(width, 1), 1)
    yield from (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _place(part: str) -> tuple[int, int]:
    return (1, int(part)) if part.isdigit() else (["embeddings", "", "final_norm", "head", "other"].index(part), 0)


def _incomparable(found: str) -> ModelError:
    return ModelError(
        found,
        "A difference of weights needs the same tensors on both sides, so none was taken.",
        "Name the model that the student was trained from.",
    )
