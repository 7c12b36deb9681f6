"""A model folder in; its config, or its network as transformers computes it, out.

The one place where transformers reads configs and weights: from safetensors only, with no code of the folder's own. A folder
that it cannot read, or would fill up with random numbers, is refused in one line. checkpoint.py looks before anything is read.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.files import write_json
from stages.language_model.json_object import read_object
from stages.language_model.vector_math import settle_vector_math
from stages.language_model.weights import tensor_heads
from stages.scratch import scratch_folder

if TYPE_CHECKING:
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
# Fields that let transformers read another file than config.json and the weights that were hashed.
DETOURS = ("transformers_weights", "configuration_files")
QUANTISED = ("quantization_config", "compression_config")
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
                raise unbuildable(folder, f"{where}{name} is {str(value)[:20]}")
    if not isinstance(raw.get("model_type"), str):
        raise unbuildable(folder, "its config.json names no model_type")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, PreTrainedConfig

    try:
        with quiet(), _readable(path, raw) as source:
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
        raise unbuildable(folder, in_one_line(error)) from error
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


def load_network(folder: Path, dtype: str) -> "PreTrainedModel":
    """The folder's model on the CPU, in this dtype. Raises ModelError if it cannot be loaded, or not whole."""
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    settle_vector_math()
    tensor_heads(folder)
    config = load_config(folder)
    refuse_other_kinds(folder, config)
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
        raise incomplete(folder, f"lacks {listed(missing)}")
    return network


def refuse_other_kinds(folder: Path, config: "PreTrainedConfig") -> None:
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


@contextmanager
def quiet() -> Iterator[None]:
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
def _readable(path: Path, raw: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a config.json that transformers can read: it does not read one with a byte order mark."""
    with open(path, "rb") as file:
        has_mark = file.read(3) == b"\xef\xbb\xbf"
    if not has_mark:
        yield path.parent
        return
    with scratch_folder("config") as folder:
        write_json(folder / "config.json", raw)
        yield folder


def in_one_line(error: BaseException) -> str:
    """What a library's error says, in one line: a config's validation says what is wrong in its second one."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rsplit(" ", 1)[0] + " …"


def listed(names: list[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more tensors" if more > 0 else "")


def unbuildable(folder: Path, reason: str) -> ModelError:
    return ModelError(
        f"transformers cannot make out what {folder} is: {reason}",
        "A config.json of a causal language model was needed, so nothing was read.",
        COPY_AGAIN,
    )


def incomplete(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"The checkpoint in {folder} {what}.",
        "transformers would go on with random numbers there, or without it, so nothing was read.",
        COPY_AGAIN,
    )
