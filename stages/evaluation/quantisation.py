"""A model folder in, a folder out whose linear layers hold only what int8 or int4 can hold.

torchao rounds the weights; they are then written in an ordinary dtype again, so that every engine can be asked the same
questions. What is measured is the information that quantisation takes away, not a kernel: activations are never rounded.

Source: Zhang et al. 2024 (arXiv 2410.16454), who found that four bits bring back what unlearning had hidden.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.errors import ModelError, OutputExists
from stages.files import TEMPORARY_SUFFIX, remove_tree, write_json
from stages.language_model.checkpoint import empty_network
from stages.language_model.engine import Dtype
from stages.language_model.folder import copy_other_files, publish
from stages.language_model.json_object import read_object
from stages.language_model.weights import INDEX, opened, weight_files, weight_map

if TYPE_CHECKING:
    import torch

Weights = Literal["int8", "int4"]
# 32 divides the width of nearly every layer of every model, and is the block of GGUF's four-bit formats.
INT4_GROUP = 32
# torchao warns of GPU kernels that this machine's torch cannot load, none of which rounds a weight, and torch of a way in
# which torchao registers a type.
IMPORT_WARNINGS = {"torchao": "Failed to load", "torch.utils._pytree": "<enum 'KernelPreference'>"}


def quantised_copy(model: Path, out: Path, *, weights: Weights, dtype: Dtype) -> Path:
    """Write `out`, the model with its linear layers rounded by torchao, and return it.

    weights: int8, one scale per output channel; int4, one scale per 32 neighbouring weights of a channel. Both are
    symmetric: with the scale s = max |w| / (2^bits − 1) × 2, a weight becomes the multiple q × s nearest to it, q from
    −2^(bits − 1) to 2^(bits − 1) − 1, and is off by s / 2 at most.
    dtype: of the copy's files and of its activations. In float32 the weights lie on the grid itself; bfloat16 and
    float16 round q × s once more, as they round every weight.

    Rounded are all linear layers but the head. Embeddings, norms, biases and the head, tied to the embeddings or not,
    only take the dtype, as transformers and vLLM do it when they quantise.
    Reads and writes one file of weights at a time. The folder appears whole, by rename, and takes as much room on the
    disk as the model in that dtype.
    Raises ModelError if the model cannot be quantised so, OutputExists if `out` is there.
    """
    if out.exists():
        raise OutputExists(
            f"{out} is there already.", "It was left as it is.", "Name another folder, or move that one away."
        )
    files = weight_files(model)
    rounded = _rounded_weights(model, files, weights)
    temporary = out.with_name(out.name + TEMPORARY_SUFFIX)
    remove_tree(temporary)
    temporary.mkdir(parents=True)
    try:
        _copy_other_files(model, temporary, dtype)
        total_bytes = 0
        for path in dict.fromkeys(files.values()):
            total_bytes += _write_file(path, temporary / path.name, rounded, weights, dtype)
        if mapping := weight_map(model):
            write_json(temporary / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": mapping})
        publish(temporary, out)
    finally:
        # Of a copy that failed nothing stays: it may be as large as the model.
        remove_tree(temporary)
    return out


def quantised(weight_OI: "torch.Tensor", weights: Weights) -> "torch.Tensor":
    """A linear layer's weight [output, input] as torchao rounds it, in float32: multiples of each group's scale."""
    import torch

    with _quiet_import():
        from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

    layer = torch.nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight_OI.float(), requires_grad=False)
    granularity = PerAxis(0) if weights == "int8" else PerGroup(INT4_GROUP)
    quantize_(layer, IntxWeightOnlyConfig(weight_dtype=getattr(torch, weights), granularity=granularity))
    found: torch.Tensor = layer.weight.dequantize()
    return found


def _write_file(source: Path, target: Path, rounded: set[str], weights: Weights, dtype: Dtype) -> int:
    """One file of weights, those in `rounded` rounded. Returns the bytes of its tensors."""
    import torch
    from safetensors.torch import save_file

    found: dict[str, torch.Tensor] = {}
    with opened(source) as file:
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no dict
            value = file.get_tensor(name)
            if name in rounded:
                if not value.isfinite().all():
                    raise ModelError(f"{name} in {source} holds a weight that is no finite number.")
                value = quantised(value, weights)
            found[name] = value.to(getattr(torch, dtype)) if value.is_floating_point() else value
    save_file(found, target, metadata={"format": "pt"})
    return sum(value.nbytes for value in found.values())


def _rounded_weights(model: Path, files: Mapping[str, Path], weights: Weights) -> set[str]:
    """Names of the tensors to be rounded. Raises ModelError unless all are there and their groups come out even."""
    layers = _linear_layers(model)
    for name, layer in layers.items():
        if name not in files:
            raise ModelError(
                f"{model} holds no tensor {name}, which is the weight of a linear layer.",
                "Its files name their tensors in another way than the model does, so nothing was quantised.",
                "Save it once with transformers:  AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
            )
        if weights == "int4" and layer.in_features % INT4_GROUP:
            raise ModelError(
                f"{name} has {layer.in_features} inputs, which groups of {INT4_GROUP} do not divide.",
                "int4 has a scale for every such group, so nothing was quantised.",
                "Quantise to int8.",
            )
    return set(layers)


def _linear_layers(model: Path) -> "dict[str, torch.nn.Linear]":
    """All linear layers but the head, without their values, by the name of their weight.

    Raises ModelError if the model has matrices of another kind, such as the experts of a mixture: a copy that left
    them alone would be called quantised, and would not be.
    """
    import torch

    network = empty_network(model)
    head = network.get_output_embeddings()
    found: dict[str, torch.nn.Linear] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            if module is not head:
                found[f"{name}.weight"] = module
        elif not isinstance(module, torch.nn.Embedding) and "norm" not in type(module).__name__.lower():
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1:
                    raise ModelError(
                        f"{model} has the weight {name}.{own}, of a {type(module).__name__} and no linear layer.",
                        "Only linear layers are quantised; this would have been left out, so nothing was.",
                        "Leave quantisation out for this model.",
                    )
    return found


def _copy_other_files(model: Path, folder: Path, dtype: Dtype) -> None:
    """Config, tokenizer, chat template and generation settings; the config names the copy's dtype."""
    copy_other_files(model, folder)
    config = read_object(model / "config.json")
    parts = [config, config["text_config"]] if isinstance(config.get("text_config"), dict) else [config]
    for part in parts:
        part.pop("torch_dtype", None)
        part["dtype"] = dtype
    write_json(folder / "config.json", config)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Hold back the warnings that importing torchao prints, and no others."""

    def passes(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(IMPORT_WARNINGS[record.name])

    for name in IMPORT_WARNINGS:
        logging.getLogger(name).addFilter(passes)
    try:
        yield
    finally:
        for name in IMPORT_WARNINGS:
            logging.getLogger(name).removeFilter(passes)
