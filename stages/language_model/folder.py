"""A model's folder: found by path or hub name, and identified by what is in it, never by what it is called."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.files import TEMPORARY_SUFFIX, remove_tree, sha256_file, sync_folder
from stages.language_model.checkpoint import check_model
from stages.language_model.json_object import first_line, read_object
from stages.language_model.loading import load_config, text_config
from stages.language_model.weights import refuse_adapter, weight_files, weight_map
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What families call the most tokens of a text; MPT has the second.
LENGTHS = ("max_position_embeddings", "max_seq_len")
OTHER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "additional_chat_templates/*.jinja")
# Where a folder says how an answer ends; the first that is there.
END_FILES = ("generation_config.json", "config.json")
ANOTHER_MODEL = """Name one with --set model.path=… (finetune: finetune.model=…; ask, evaluate: --model), or make the default one:
  make model in the repository, elsewhere:  duet default-model"""
READ_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors"}
PLAIN_TEMPLATE = "Question: {query}\nAnswer:"


def resolve_model(name: str) -> Path:
    """The local folder of a model, given as a path or as a hub name (`owner/model`), which is downloaded.

    Raises ModelError if there is no such folder, or unless config, weights and generation settings are whole and of one
    causal language model: every command comes through here before it loads or trains anything.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(name)
    _refuse_what_is_no_file(folder)
    if not (folder / "config.json").is_file():
        refuse_adapter(folder)
        exported = folder / "model"
        raise ModelError(
            f"{folder} holds no config.json.",
            "A Hugging Face model folder was needed: config.json, tokenizer files and *.safetensors.",
            f"A run keeps its model in a folder of its own:  {exported}"
            if (exported / "config.json").is_file()
            else ANOTHER_MODEL,
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds no *.safetensors weights.",
            "Weights in other formats may carry code, so they are not read.",
            "Convert them once:  AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
        )
    check_model(folder)
    _declared_ends(folder)
    return folder


def hash_weights(folder: Path) -> str:
    """SHA-256 over the config's architecture and over every file of weights that an engine loads, by name."""
    paths = sorted(set(weight_files(folder).values()))
    files = {path.name: sha256_file(path) for path in paths}
    mapping = weight_map(folder)
    return sha256_json(
        {"config": _identifying_config(folder), "files": files} | ({"index": mapping} if mapping else {})
    )


def hash_weights_of_version_1(folder: Path) -> str:
    """`hash_weights` as first captures had it: over every safetensors file in the folder, and without their index."""
    files = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return sha256_json({"config": _identifying_config(folder), "files": files})


def _identifying_config(folder: Path) -> dict[str, Any]:
    config = read_object(folder / "config.json")
    # These vary with the library or with where the folder came from, not with the model.
    for field in ("transformers_version", "_name_or_path", "_model_name_or_path", "use_cache"):
        config.pop(field, None)
    return config


def copy_other_files(source: Path, folder: Path) -> None:
    """Copy what belongs to a model beside weights and config, byte for byte: tokenizer, templates, processor and so on."""
    for path in sorted({path for pattern in OTHER_FILES for path in source.glob(pattern) if path.is_file()}):
        # The copy writes its own config and index. Beside params.json, vLLM looks for weights in Mistral's own format.
        if path.name not in {"config.json", "params.json"} and not path.name.endswith(".index.json"):
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def publish(temporary: Path, folder: Path) -> None:
    """Let a folder that is finished appear under its name, whole, in place of an earlier one.

    safetensors writes its files for their owner alone; all get the mode that new files have, so that others can serve it.
    """
    probe = temporary / TEMPORARY_SUFFIX
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in (each for each in temporary.rglob("*") if each.is_file()):
        path.chmod(mode)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    remove_tree(folder)
    temporary.rename(folder)
    sync_folder(folder.parent)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer. Raises ModelError if it has none, or one with ids that its model has no embedding for."""
    from transformers import AutoTokenizer

    config = load_config(folder) if (folder / "config.json").is_file() else None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=False, local_files_only=True
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    # The tokenizers library raises bare Exception for a file that it cannot read, and BaseException when it panics.
    except BaseException as error:
        raise ModelError(
            f"{folder} holds no usable tokenizer: {first_line(error)}",
            "A whole Hugging Face model folder was needed, tokenizer files included.",
            "Copy, download or convert the model again.",
        ) from error
    if config is not None:
        _refuse_ids_outside(folder, tokenizer)
    return tokenizer


def hash_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 over what turns text into ids: vocabulary, merges, added tokens, normaliser, pre-tokenizer.

    The same before and after `save_pretrained`, which may rewrite the files.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        return sha256_json({"vocabulary": tokenizer.get_vocab(), "added": added})
    state = json.loads(backend.to_str())
    return sha256_json({name: state.get(name) for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")})


def vocab_size(folder: Path) -> int:
    """Rows of the output embedding, which may be more than the tokenizer has tokens."""
    size = getattr(text_config(folder), "vocab_size", None)
    if not isinstance(size, int) or size < 1:
        raise ModelError(f"{folder}/config.json names no vocab_size.", "Without a vocabulary nothing can be trained.")
    return size


def context_length(folder: Path) -> int | None:
    """Most tokens the model was made for; None: its architecture has no limit."""
    config = text_config(folder)
    lengths = [getattr(config, name, None) for name in LENGTHS]
    length = next((each for each in lengths if each is not None), None)
    # XLNet's way to say that it has none.
    if length is None or length == -1:
        return None
    if not isinstance(length, int) or length < 1:
        raise ModelError(
            f"{folder}/config.json says that the model holds {length!r} tokens.",
            "At least one was needed.",
            "Correct max_position_embeddings in it.",
        )
    return length


def end_of_turn_ids(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids that end an answer: those of generation_config.json, or else of config.json, and of the tokenizer."""
    ids = _declared_ends(folder)
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    return sorted(ids)


def _refuse_what_is_no_file(folder: Path) -> None:
    """Raise ModelError for a pipe or a device, which one may read for ever, and for a link to a file that is missing."""
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if path.is_file() or path.is_dir() or (path.is_symlink() and path.suffix not in READ_SUFFIXES):
            continue
        what = "is no file, but a pipe or a device" if path.exists() else "is a link to a file that is not there"
        raise ModelError(
            f"{path} {what}.",
            "A whole Hugging Face model folder was needed, so nothing was read.",
            "Copy or download the model again, or remove it if it is no part of the model.",
        )


def _declared_ends(folder: Path) -> set[int]:
    # As transformers and vLLM: a folder without generation settings has them in its config.
    path = next((path for name in END_FILES if (path := folder / name).exists()), None)
    if path is None:
        return set()
    declared = read_object(path).get("eos_token_id")
    ids = declared if isinstance(declared, list) else [] if declared is None else [declared]
    if not all(type(each) is int for each in ids):
        raise ModelError(
            f"{path} has the eos_token_id {str(declared)[:80]}, which is neither an id nor a list of ids.",
            "Nobody would know where an answer ends, so nothing was read.",
            "Correct eos_token_id in it.",
        )
    # Some old configs say "none" by a negative number.
    return {each for each in ids if each >= 0}


def _refuse_ids_outside(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise ModelError if some text becomes an id without a row in the embedding.

    Not for the placeholder of an image or a sound, which no text holds: Gemma 3 has one more token than rows.
    """
    size = vocab_size(folder)
    placeholders = {
        str(token)
        for role, token in tokenizer.special_tokens_map.items()
        if role.startswith(("image", "audio", "video"))
    }
    outside = {token: each for token, each in tokenizer.get_vocab().items() if each >= size}
    if outside.keys() - placeholders:
        raise ModelError(
            f"The tokenizer in {folder} has ids up to {max(outside.values())}, the model has {size} rows in its embedding.",
            "Some text would have no embedding, so nothing was read.",
            "Use the model's own tokenizer, or save the model again after resize_token_embeddings(…).",
        )


def _download(name: str) -> Path:
    missing = ModelError(
        f"There is no model folder {name}.",
        "A Hugging Face model folder was needed, or a hub name such as owner/model.",
        ("Write the whole path, for ~ is not your home folder here.\n  " if name.startswith("~") else "")
        + ANOTHER_MODEL,
    )
    if name.startswith((".", "/", "~", "models/", "runs/")) or name.count("/") != 1:
        raise missing
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"There is no model folder {name}, and the model hub did not give it: {first_line(error)}",
            missing.needed,
            missing.next_step,
        ) from error
