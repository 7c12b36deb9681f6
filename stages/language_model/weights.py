"""A model's weights as they lie in its folder: which file holds which tensor, read without loading the model.

The one place that says which files are the model. They are hashed, and they are what transformers and vLLM load, each
of which would choose by rules of its own: a folder in which they could choose differently is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import ModelError
from stages.language_model.json_object import first_line, read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
COMPARED_ROWS = 8192
COPY_AGAIN = "Copy or download the model again."


@dataclass(frozen=True)
class TensorHead:
    """What a file's head says of one of its tensors. dtype: as safetensors names it, such as BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> dict[str, Path]:
    """Every tensor's name and the file that holds it, file by file; raises as `tensor_heads` does."""
    return {name: head.file for name, head in tensor_heads(folder).items()}


def tensor_heads(folder: Path) -> dict[str, TensorHead]:
    """Every tensor of the model by its name, file by file; only the heads of the files are read.

    Raises ModelError if there are none, if a file is damaged, if index and files disagree, or if it is open which
    files an engine would load.
    """
    refuse_adapter(folder)
    mapping = weight_map(folder)
    if mapping is None:
        there = sorted(path.name for path in folder.glob("[!.]*.safetensors"))
        if not (folder / SINGLE).is_file():
            raise ModelError(
                f"{folder} holds neither {SINGLE} nor {INDEX}.",
                "Only safetensors are read: weights in other formats may carry code.",
                "Convert them once:  AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
            )
        # vLLM would load these, too; transformers would not.
        if extra := [name for name in there if name != SINGLE]:
            raise ModelError(
                f"{folder} holds {extra[0]} beside {SINGLE}, and no {INDEX} that says which of them are the model.",
                "Engines would not load the same files, so nothing was read.",
                "Move the file that is not part of the model to another folder.",
            )
    names = [SINGLE] if mapping is None else sorted(set(mapping.values()))
    found: dict[str, TensorHead] = {}
    for path in (folder / name for name in names):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no dict
                if mapping is not None and mapping.get(name) != path.name:
                    where = f"names {mapping[name]} for it" if name in mapping else "does not name it"
                    raise _contradiction(f"{path} holds the tensor {name}, and {INDEX} {where}.")
                part = file.get_slice(name)
                found[name] = TensorHead(path, str(part.get_dtype()), tuple(part.get_shape()))
    for name, shard in (mapping or {}).items():
        if name not in found:
            raise _contradiction(f"{folder / INDEX} says that {name} is in {shard}, which does not hold it.")
    if not found:
        raise ModelError(f"The weights of {folder} hold no tensor.", "Nothing could be loaded.", COPY_AGAIN)
    return found


def weight_map(folder: Path) -> dict[str, str] | None:
    """Tensor names to file names as the folder's index has them; None if it has no index.

    Raises ModelError unless every file is in the folder itself, or if both transformers and vLLM would not follow it.
    """
    path = folder / INDEX
    if not path.exists():
        return None
    index = read_object(path)
    mapping = index.get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not isinstance(index.get("metadata"), dict):
        raise ModelError(
            f"{path} is no index of weights: it needs a weight_map of tensor names and file names, and metadata.",
            "Without it nobody knows which files belong to the model, so nothing was read.",
            COPY_AGAIN,
        )
    for name, file in mapping.items():
        if not isinstance(file, str) or Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise ModelError(
                f"{path} says that {name[:80]} is in {str(file)[:80]!r}, which is no name of a safetensors file.",
                "A model's weights lie in its own folder, so nothing was read.",
                COPY_AGAIN,
            )
    if (folder / SINGLE).is_file() and set(mapping.values()) != {SINGLE}:
        raise ModelError(
            f"{folder} holds both {SINGLE} and an {INDEX} that names other files.",
            "transformers would load the one and vLLM the others, so nothing was read.",
            "Move the one that is not the model to another folder.",
        )
    return mapping


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open safetensors file (`keys`, `get_tensor`, `get_slice`); nothing is read but its head.

    Raises ModelError if it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(
            f"{path} is no whole safetensors file: it is not there, or is a pipe or a device.",
            "Every file of the model's weights was needed.",
            COPY_AGAIN,
        )
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is no whole safetensors file: {first_line(error)}",
            "Every file of the model's weights was needed.",
            COPY_AGAIN,
        ) from error
    with file:
        yield file


def same_numbers(one: tuple[str, TensorHead], other: tuple[str, TensorHead]) -> bool:
    """Whether two tensors, by name, hold the same; read in pieces, for an embedding may have gigabytes."""
    if one[1].shape != other[1].shape or one[1].dtype != other[1].dtype:
        return False
    with opened(one[1].file) as first, opened(other[1].file) as second:
        slices = first.get_slice(one[0]), second.get_slice(other[0])
        return all(
            slices[0][start : start + COMPARED_ROWS].equal(slices[1][start : start + COMPARED_ROWS])
            for start in range(0, one[1].shape[0], COMPARED_ROWS)
        )


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError if the folder holds an adapter, which transformers would load and vLLM would not."""
    if not (folder / ADAPTER).exists():
        return
    merge = "Merge it once with PEFT:  PeftModel.from_pretrained(base, …).merge_and_unload().save_pretrained(…)"
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds {ADAPTER}: an adapter, no model.", "A whole model was needed.", merge)
    raise ModelError(
        f"{folder} holds {ADAPTER}: an adapter beside the weights.",
        "transformers would put it on top of the weights and vLLM would not, so nothing was read.",
        f"{merge}, or move it away",
    )


def _contradiction(found: str) -> ModelError:
    return ModelError(found, "Index and files are not of one model, so nothing was read.", COPY_AGAIN)
