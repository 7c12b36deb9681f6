"""Config and weights of a model folder in, nothing or one line of refusal out: before anything is loaded or trained.

Only configs and the heads of weight files are read: the network is built without memory, and matched as if it were loaded.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.language_model.loading import (
    BROKEN,
    in_one_line,
    incomplete,
    listed,
    load_config,
    quiet,
    refuse_other_kinds,
    unbuildable,
)
from stages.language_model.weights import TensorHead, same_numbers, tensor_heads

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

WIDTH = re.compile(r"^(?:\w+_)?(?:head_dim|hidden_size|intermediate_size|vocab_size)$|^d_model$|^n_(?:embd|inner)$")
PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}
# Modules without a weight of their own, such as activations and containers, stand beside those that have one.
MODULES_PER_TENSOR = 32
FEWEST_MODULES = 2000
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def check_model(folder: Path) -> None:
    """Raise ModelError unless config and weights make a causal language model, with every weight in the shape it needs.

    Nothing but heads and configs is read: the network is built without memory, and matched as if it were loaded.
    """
    heads, config = tensor_heads(folder), load_config(folder)
    network = empty_network(folder, config, heads)
    info = _matched(folder, network, heads)
    missing = sorted(info["missing_keys"])
    if missing:
        raise incomplete(folder, f"lacks {listed(missing)}")
    if wrong := sorted(info["mismatched_keys"]):
        name, found, needed = wrong[0]
        raise incomplete(
            folder,
            f"has {name} in the shape {_shape(found)}, and its config asks for {_shape(needed)}"
            + (f"; {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else ""),
        )
    if surplus := _surplus_layers(network, info["unexpected_keys"]):
        raise incomplete(folder, f"has {listed(surplus)}, of layers that its config does not name")
    if left_out := _left_out(network, info["unexpected_keys"]):
        raise incomplete(folder, f"has {listed(left_out)}, and its config leaves that part of the layer out")
    _refuse_other_dtypes(folder, network, heads)
    _refuse_two_heads(folder, network, heads)
    head = network.get_output_embeddings()
    rows, vocabulary = (
        head.weight.shape[0] if head is not None else None,
        getattr(config.get_text_config(), "vocab_size", None),
    )
    if rows not in (None, vocabulary):
        raise incomplete(
            folder, f"has {rows} rows in its output embedding, and its config a vocab_size of {vocabulary}"
        )


def empty_network(
    folder: Path, config: "PreTrainedConfig | None" = None, heads: Mapping[str, TensorHead] | None = None
) -> "PreTrainedModel":
    """The folder's network without its weights, which take no memory. Raises ModelError if it cannot be built."""
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    config = config or load_config(folder)
    heads = heads or tensor_heads(folder)
    refuse_other_kinds(folder, config)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and not 1 <= layers <= len(heads):
        raise unbuildable(folder, f"its config names {layers} layers, and its files hold {len(heads)} tensors")
    numbers = sum(math.prod(head.shape) for head in heads.values())
    for name, value in config.get_text_config().to_dict().items():
        # Some tables are computed in memory from these, however large.
        if WIDTH.match(name) and isinstance(value, int) and value > numbers:
            raise unbuildable(folder, f"its {name} is {str(value)[:20]}, and its files hold {numbers:,} numbers")
    try:
        with quiet(), _bounded(len(heads)), torch.device("meta"):
            network: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (*BROKEN, StrictDataclassError) as error:
        raise unbuildable(folder, in_one_line(error)) from error
    return network


def _matched(folder: Path, network: "PreTrainedModel", heads: Mapping[str, TensorHead]) -> dict[str, Any]:
    """What transformers says when it loads tensors of these shapes and no content: keys missing, mismatched, unexpected."""
    import torch

    tensors = {name: torch.empty(head.shape, dtype=network.dtype, device="meta") for name, head in heads.items()}
    try:
        with quiet():
            _, info = type(network).from_pretrained(
                None,
                config=network.config,
                state_dict=tensors,
                dtype=network.dtype,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except BROKEN as error:
        raise incomplete(folder, _odd_one(heads) or f"cannot be put together: {in_one_line(error)}") from error
    found: dict[str, Any] = info
    return found


def _refuse_other_dtypes(folder: Path, network: "PreTrainedModel", heads: Mapping[str, TensorHead]) -> None:
    """Raise ModelError if a weight is stored as anything but a plain float: it would be read as a number that it is not.

    A mask or a table of positions may well hold integers.
    """
    others = sorted(name for name, head in heads.items() if head.dtype not in PLAIN_DTYPES)
    if not others:
        return
    plain = {name: head for name, head in heads.items() if head.dtype in PLAIN_DTYPES}
    values = network.state_dict()
    try:
        info = _matched(folder, network, plain)
        needs_others = bool(info["mismatched_keys"]) or any(
            values[name].is_floating_point() for name in info["missing_keys"]
        )
    except ModelError:
        # Experts are put together from all of their tensors, or not at all.
        needs_others = True
    if needs_others:
        raise ModelError(
            f"{folder} holds {others[0]} as {heads[others[0]].dtype}; weights in {', '.join(sorted(PLAIN_DTYPES))} are read.",
            "The model is quantised or damaged, so nothing was read.",
            "Name the model that it was made from, or dequantise it and save it again.",
        )


def _refuse_two_heads(folder: Path, network: "PreTrainedModel", heads: Mapping[str, TensorHead]) -> None:
    """Raise ModelError if a config ties the output to the input embeddings, and the files hold two that differ."""
    if not getattr(network.config.get_text_config(), "tie_word_embeddings", False):
        return
    names = {id(module): name for name, module in network.named_modules()}
    pair = []
    for module in (network.get_output_embeddings(), network.get_input_embeddings()):
        name = f"{names.get(id(module), '')}.weight"
        stored = name if name in heads else name.removeprefix(f"{network.base_model_prefix}.")
        if stored in heads:
            pair.append((stored, heads[stored]))
    if len(pair) == 2 and pair[0][0] != pair[1][0] and not same_numbers(*pair):
        raise ModelError(
            f"{folder} holds {pair[0][0]} and {pair[1][0]}, which differ, and its config ties the two.",
            "transformers would load both and vLLM only the second, so nothing was read.",
            "Set tie_word_embeddings to false in its config.json, or take the first out of its weights.",
        )


def _surplus_layers(network: "PreTrainedModel", unexpected: set[str]) -> list[str]:
    """Tensors that the network would have if it had more layers: the config belongs to a smaller model.

    Layers that predict further tokens stand behind the others under the same names, and no engine here uses them.
    """
    if getattr(network.config.get_text_config(), "num_nextn_predict_layers", None):
        return []
    patterns = {NUMBER.sub("*", name) for name in network.state_dict()}
    return sorted(name for name in unexpected if NUMBER.search(name) and NUMBER.sub("*", name) in patterns)


def _left_out(network: "PreTrainedModel", unexpected: set[str]) -> list[str]:
    """Tensors of a layer that could have them, such as a bias, and is built without: the config is another model's."""
    layers = dict(network.named_modules())
    found = []
    for name in unexpected:
        where, _, part = name.rpartition(".")
        layer = layers.get(where) or layers.get(f"{network.base_model_prefix}.{where}")
        if layer is not None and part in layer._parameters and layer._parameters[part] is None:
            found.append(name)
    return sorted(found)


def _odd_one(heads: Mapping[str, TensorHead]) -> str:
    """Which of many like tensors, such as experts, is not there or has another shape than the others; "" if none."""
    rows: dict[str, dict[str, dict[int, TensorHead]]] = defaultdict(lambda: defaultdict(dict))
    for name, head in heads.items():
        if numbers := list(NUMBER.finditer(name)):
            last = numbers[-1]
            rows[name[: last.start()]][name[last.end() :]][int(last[0])] = head
    for prefix, by_suffix in rows.items():
        every = {number for row in by_suffix.values() for number in row}
        for suffix, row in by_suffix.items():
            if gaps := sorted(every - row.keys()):
                return f"lacks {prefix}{gaps[0]}{suffix}"
            shapes = [head.shape for head in row.values()]
            for number, head in row.items():
                if shapes.count(head.shape) * 2 < len(shapes):
                    return f"has {prefix}{number}{suffix} in the shape {_shape(head.shape)}, unlike its neighbours"
    return ""


@contextmanager
def _bounded(tensors: int) -> Iterator[None]:
    """End the building of a network that has far more parts than its files have tensors: it might never end."""
    from torch.nn.modules.module import register_module_module_registration_hook

    most, seen = FEWEST_MODULES + MODULES_PER_TENSOR * tensors, 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen > most:
            raise ValueError(f"its config asks for more than {most} modules, and its files hold {tensors} tensors")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _shape(shape: "tuple[int, ...] | torch.Size") -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
