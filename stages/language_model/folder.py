"""A model's folder: found by path or hub name, and identified by what is in it, never by what it is called."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.files import sha256_file
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = "Question: {query}\nAnswer:"


def resolve_model(name: str) -> Path:
    """The local folder of a model, given as a path or as a hub name (`owner/model`), which is downloaded.

    Raises ModelError if there is no such folder, or if it holds no config or no safetensors weights.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(name)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no config.json.",
            "A Hugging Face model folder was needed: config.json, tokenizer files and *.safetensors.",
            "Name one with --set model.path=…, or make the default one:  make model",
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds no *.safetensors weights.",
            "Weights in other formats may carry code, so they are not read.",
            "Convert them once:  AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)",
        )
    return folder


def hash_weights(folder: Path) -> str:
    """SHA-256 over the config's architecture and over every safetensors file, by name."""
    config = _read_json(folder / "config.json")
    # These vary with the library or with where the folder came from, not with the model.
    for field in ("transformers_version", "_name_or_path", "_model_name_or_path", "use_cache"):
        config.pop(field, None)
    files = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return sha256_json({"config": config, "files": files})


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer. Raises ModelError if it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no usable tokenizer: {_first_line(error)}") from error
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
    size = _text_config(folder).get("vocab_size")
    if not isinstance(size, int):
        raise ModelError(f"{folder}/config.json names no vocab_size.")
    return size


def context_length(folder: Path) -> int:
    """Most tokens the model was made for."""
    length = _text_config(folder).get("max_position_embeddings")
    if not isinstance(length, int):
        raise ModelError(f"{folder}/config.json names no max_position_embeddings.")
    return length


def attention_of(folder: Path) -> str | None:
    """Which attention of transformers computes this model as it was made; None: its default one.

    The default drops the soft-capping of attention logits (Gemma 2) without a word; only the plain one has it.
    """
    return "eager" if _text_config(folder).get("attn_logit_softcapping") else None


def end_of_turn_ids(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids that end an answer: those of generation_config.json and of the tokenizer."""
    ids: set[int] = set()
    path = folder / "generation_config.json"
    declared = _read_json(path).get("eos_token_id") if path.is_file() else None
    for value in declared if isinstance(declared, list) else [declared]:
        if isinstance(value, int):
            ids.add(value)
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    return sorted(ids)


def _text_config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / "config.json")
    # Models that also see or hear keep the language part one level down.
    text: dict[str, Any] = config.get("text_config", config)
    return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{path} is not JSON: {_first_line(error)}.",
            "A whole Hugging Face model folder was needed.",
            "Copy, download or convert the model again.",
        ) from error
    return content


def _download(name: str) -> Path:
    missing = ModelError(
        f"There is no model folder {name}.",
        "A Hugging Face model folder was needed, or a hub name such as owner/model.",
        "Make the default model:  make model        or name yours:  --set model.path=…",
    )
    if name.startswith((".", "/", "~", "models/", "runs/")) or name.count("/") != 1:
        raise missing
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"There is no model folder {name}, and the model hub did not give it: {_first_line(error)}",
            missing.needed,
            missing.next_step,
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
