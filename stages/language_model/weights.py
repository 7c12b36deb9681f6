"""A model's weights as they lie in its folder: which file holds which tensor, read without loading the model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import ModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> dict[str, Path]:
    """Every tensor's name and the file that holds it, file by file: the files that transformers would load.

    Raises ModelError if there are none, if one is damaged, or if the index names a tensor that its file does not hold.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        paths, promised = [folder / SINGLE], {}
    elif index.is_file():
        promised = _promised(index)
        paths = sorted({folder / name for name in promised.values()})
    else:
        raise ModelError(
            f"{folder} holds neither {SINGLE} nor {INDEX}.",
            "Only safetensors are read: weights in other formats may carry code.",
            "Convert them once:  AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
        )
    found: dict[str, Path] = {}
    for path in paths:
        with opened(path) as file:
            found.update(dict.fromkeys(file.keys(), path))
    for name, shard in promised.items():
        if found.get(name) != folder / shard:
            raise ModelError(
                f"{index} says that {name} is in {shard}, which does not hold it.",
                "A part of the model is missing, so nothing was read.",
                "Copy or download the model again.",
            )
    return found


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open safetensors file (`keys`, `get_tensor`, `get_slice`); nothing is read but its head.

    Raises ModelError if it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is no whole safetensors file: {str(error).splitlines()[0]}",
            "Every file of the model's weights was needed.",
            "Copy or download the model again.",
        ) from error
    with file:
        yield file


def _promised(index: Path) -> dict[str, str]:
    """Tensor names to file names, as the index has them: plain names, no paths."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        sound = {str(name): Path(file).name for name, file in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index} is no index of weights: it needs a weight_map of tensor names and file names.",
            "Without it nobody knows which files belong to the model, so nothing was read.",
            "Copy or download the model again.",
        ) from error
    return sound
