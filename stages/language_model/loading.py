"""A model folder in; its config, a check of its weights, or its network as transformers computes it, out.

The one place where transformers builds a network or reads weights: from safetensors only, with no code of the folder's own.
A folder that it cannot build, or would fill up with random numbers, is refused in one line.
"""

import math
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.files import write_json
from stages.language_model.json_object import read_object
from stages.language_model.weights import TensorHead, same_numbers, tensor_heads

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# A config may hold anything, and every family's code meets it unprepared: sizes divide by zero, strings are multiplied,
# fields are missing. Only while a config or a network is being built do all of these mean "this folder is broken".
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# How often a part is repeated; some family's config builds a list of that length before anything can be compared with it.
COUNT = re.compile(r"^(?:n|num(?:_\w+)?|\w*(?:en|de)coder|\w*_hidden)_layers?$|^num_labels$")
LARGEST_COUNT = 10_000
WIDTH = re.compile(r"^(?:\w+_)?(?:head_dim|hidden_size|intermediate_size|vocab_size)$|^d_model$|^n_(?:embd|inner)$")
# Fields that let transformers read another file than config.json and the weights that were hashed.
DETOURS = ("transformers_weights", "configuration_files")
QUANTISED = ("quantization_config", "compression_config")
PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}
# Modules without a weight of their own, such as activations and containers, stand beside those that have one.
MODULES_PER_TENSOR = 32
FEWEST_MODULES = 2000
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
NAMED_AT_MOST = 3
LONGEST_REASON = 240
COPY_AGAIN = "Copy, download or convert the model again."


def load_config(folder: Path) -> "PreTrainedConfig":
    """The folder's config as transformers reads it, with the defaults of its family. Raises ModelError if it is broken."""
    path = folder / "config.json"
    raw = read_object(path)
    for part, where in ((raw, ""), (raw.get("text_config"), "text_config.")):
        if not isinstance(part, dict):
            continue
        for name, value in part.items():
            if name in DETOURS and value:
                raise ModelError(
                    f"{path} has {where}{name}, which makes transformers read another file than the model's own.",
                    "What was loaded would not be what was hashed, so nothing was read.",
                    f"Remove {name} from it.",
                )
            if name in QUANTISED and value:
                raise ModelError(
                    f"{path} has {where}{name}: the model is quantised already.",
                    "DUET trains and compares whole weights, so nothing was read.",
                    "Name the model that it was made from, or dequantise it and save it again.",
                )
            if COUNT.match(name) and isinstance(value, int) and value > LARGEST_COUNT:
                raise _unbuildable(folder, f"{where}{name} is {str(value)[:20]}")
    if not isinstance(raw.get("model_type"), str):
        raise _unbuildable(folder, "its config.json names no model_type")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, PreTrainedConfig

    try:
        with _quiet(), _readable(path, raw) as source:
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                source,
                trust_remote_code=False,
                local_files_only=True,
                # A config may name code on the model hub for these.
                attn_implementation=None,
                experts_implementation=None,
            )
            if not isinstance(config.get_text_config(), PreTrainedConfig):
                raise TypeError(f"models of type {config.model_type} have no text_config")
    except (*BROKEN, StrictDataclassError) as error:
        raise _unbuildable(folder, in_one_line(error)) from error
    for part in (config, config.get_text_config()):
        # How an old program wanted its results: as bare tuples, which the networks' own code no longer takes.
        part.return_dict = True
    return config


def text_config(folder: Path) -> "PreTrainedConfig":
    """The part of the folder's config that is about language."""
    return load_config(folder).get_text_config()


def attention_of(config: "PreTrainedConfig") -> str | None:
    """Which attention of transformers computes this model as it was made; None: its default one.

    The default drops the soft-capping of attention logits (Gemma 2) without a word; only the plain one has it.
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def check_model(folder: Path) -> None:
    """Raise ModelError unless config and weights make a causal language model, with every weight in the shape it needs.

    Nothing but heads and configs is read: the network is built without memory, and matched as if it were loaded.
    """
    heads, config = tensor_heads(folder), load_config(folder)
    network = empty_network(folder, config, heads)
    info = _matched(folder, network, heads)
    missing = sorted(info["missing_keys"])
    if missing:
        raise _incomplete(folder, f"lacks {_listed(missing)}")
    if wrong := sorted(info["mismatched_keys"]):
        name, found, needed = wrong[0]
        raise _incomplete(
            folder,
            f"has {name} in the shape {_shape(found)}, and its config asks for {_shape(needed)}"
            + (f"; {len(wrong) - 1} more tensors differ" if len(wrong) > 1 else ""),
        )
    if surplus := _surplus_layers(network, info["unexpected_keys"]):
        raise _incomplete(folder, f"has {_listed(surplus)}, of layers that its config does not name")
    if left_out := _left_out(network, info["unexpected_keys"]):
        raise _incomplete(folder, f"has {_listed(left_out)}, and its config leaves that part of the layer out")
    _refuse_other_dtypes(folder, network, heads)
    _refuse_two_heads(folder, network, heads)
    head = network.get_output_embeddings()
    rows, vocabulary = (
        head.weight.shape[0] if head is not None else None,
        getattr(config.get_text_config(), "vocab_size", None),
    )
    if rows not in (None, vocabulary):
        raise _incomplete(
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
    _refuse_other_kinds(folder, config)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and not 1 <= layers <= len(heads):
        raise _unbuildable(folder, f"its config names {layers} layers, and its files hold {len(heads)} tensors")
    numbers = sum(math.prod(head.shape) for head in heads.values())
    for name, value in config.get_text_config().to_dict().items():
        # Some tables are computed in memory from these, however large.
        if WIDTH.match(name) and isinstance(value, int) and value > numbers:
            raise _unbuildable(folder, f"its {name} is {str(value)[:20]}, and its files hold {numbers:,} numbers")
    try:
        with _quiet(), _bounded(len(heads)), torch.device("meta"):
            network: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (*BROKEN, StrictDataclassError) as error:
        raise _unbuildable(folder, in_one_line(error)) from error
    return network


def load_network(folder: Path, dtype: str) -> "PreTrainedModel":
    """The folder's model on the CPU, in this dtype. Raises ModelError if it cannot be loaded, or not whole."""
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    tensor_heads(folder)
    config = load_config(folder)
    _refuse_other_kinds(folder, config)
    transformers.utils.logging.disable_progress_bar()
    try:
        network: PreTrainedModel
        network, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention_of(config),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            # DUET never samples through transformers, and a generation_config.json may hold what transformers refuses.
            generation_config=transformers.GenerationConfig(),
            output_loading_info=True,
        )
    except (*BROKEN, SafetensorError, StrictDataclassError) as error:
        raise ModelError(
            f"transformers cannot load {folder}: {in_one_line(error)}", "Nothing was run with it.", COPY_AGAIN
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise _incomplete(folder, f"lacks {_listed(missing)}")
    return network


def _matched(folder: Path, network: "PreTrainedModel", heads: Mapping[str, TensorHead]) -> dict[str, Any]:
    """What transformers says when it loads tensors of these shapes and no content: keys missing, mismatched, unexpected."""
    import torch

    tensors = {name: torch.empty(head.shape, dtype=network.dtype, device="meta") for name, head in heads.items()}
    try:
        with _quiet():
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
        raise _incomplete(folder, _odd_one(heads) or f"cannot be put together: {in_one_line(error)}") from error
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


def _refuse_other_kinds(folder: Path, config: "PreTrainedConfig") -> None:
    """Raise ModelError for a model that does not write text from left to right."""
    text = config.get_text_config()
    # BERT and its kin look both ways unless they are told not to; they alone know both fields.
    looks_both_ways = hasattr(text, "add_cross_attention") and getattr(text, "is_decoder", None) is False
    if config.is_encoder_decoder or looks_both_ways:
        kind = "an encoder and a decoder" if config.is_encoder_decoder else "an encoder"
        raise ModelError(
            f"{folder} holds {kind} ({config.model_type}), no causal language model.",
            "DUET unlearns in models that continue a text, so nothing was read.",
            "Name a causal language model with --set model.path=…",
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
def _quiet() -> Iterator[None]:
    """Hold back what transformers and torch print of a broken model: pages, for what is said here in one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


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


@contextmanager
def _readable(path: Path, raw: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a config.json that transformers can read: it does not read one with a byte order mark."""
    with open(path, "rb") as file:
        has_mark = file.read(3) == b"\xef\xbb\xbf"
    if not has_mark:
        yield path.parent
        return
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", raw)
        yield Path(folder)


def in_one_line(error: BaseException) -> str:
    """What a library's error says, in one line: a config's validation says what is wrong in its second one."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rsplit(" ", 1)[0] + " …"


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more tensors" if more > 0 else "")


def _shape(shape: "tuple[int, ...] | torch.Size") -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _unbuildable(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"transformers cannot make out what {folder} is: {reason}",
        "A config.json of a causal language model was needed, so nothing was read.",
        COPY_AGAIN,
    )


def _incomplete(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"The checkpoint in {folder} {what}.",
        "transformers would go on with random numbers there, or without it, so nothing was read.",
        COPY_AGAIN,
    )
