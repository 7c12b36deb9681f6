"""Stage two, last step: trained weights in, an ordinary Hugging Face folder out.

safetensors, tokenizer, chat template, generation settings and a model card. The folder appears whole, by rename.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.errors import ModelError, TrainingError
from stages.files import NO_ROOM, TEMPORARY_SUFFIX, make_folder, remove_tree
from stages.language_model.checkpoint import check_model, empty_network
from stages.language_model.folder import copy_other_files, hash_tokenizer, load_tokenizer, publish
from stages.language_model.loading import BROKEN, in_one_line
from stages.language_model.weights import tensor_heads

GENERATION = "generation_config.json"
ROOM_BYTES = 1 << 26  # for tokenizer, processor and card


def export_model(
    network: PreTrainedModel,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    folder: Path,
    card: str,
) -> None:
    """Write the folder that transformers and vLLM load.

    network: only its config and class are used. weights: whole, on the CPU. tokenizer: the student's. base: the folder
    the student began as; its tokenizer, templates, processor and generation settings are carried over byte for byte.
    card: README.md, Markdown with a YAML head.
    Raises ModelError if the base's files give another tokenizer than the student's, or if what was written is no whole
    model; it is then left under a temporary name. Raises TrainingError if there is no room.
    """
    with written_beside(folder) as temporary:
        _write(network, weights, tokenizer, base, temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    check_model(temporary)
    # An export made by an earlier, unfinished run of the same plan makes room only now.
    publish(temporary, folder)


@contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """The temporary name under which the folder is to be written; where that fails, for lack of room above all, it goes.

    Raises TrainingError if there is no room, or if it may not be written.
    """
    temporary = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    remove_tree(temporary)
    try:
        yield temporary
    except (OSError, SafetensorError) as error:
        remove_tree(temporary)
        raise TrainingError(
            f"The trained model could not be written to {folder}: {in_one_line(error)}",
            "What was trained since the newest checkpoint has to be trained again; nothing half-written passes for a model.",
            "Make room, then give the same command again.",
        ) from error
    except BaseException:
        remove_tree(temporary)
        raise


def check_export(base: Path, run: Path, *, dtype: str) -> None:
    """Raise TrainingError unless the trained model can be written in the end; called before the first step.

    Raises OutputUnwritable if the folder cannot be made.

    base: the folder the student begins as. run: where RUN/model is to appear; all of it but the weights is written into a
    temporary folder there, and removed. dtype: of the exported weights, for which there must be room.
    Every process of a training may call it, at the same time.
    """
    numbers = sum(math.prod(head.shape) for head in tensor_heads(base).values())
    needed = numbers * getattr(torch, dtype).itemsize + ROOM_BYTES
    was_there = run.exists()
    try:
        make_folder(run)
        free = shutil.disk_usage(run).free
        if free < needed:
            raise TrainingError(
                f"The trained model takes {needed:,} bytes, and the disk of {run} has {free:,} left.",
                "It could not be exported, so nothing was trained.",
                "Make room, or name a folder on another disk with --out (make: RUN=…).",
            )
        with tempfile.TemporaryDirectory(dir=run, prefix="export-", suffix=TEMPORARY_SUFFIX) as temporary:
            _write(empty_network(base), {}, load_tokenizer(base), base, Path(temporary))
    except BROKEN as error:
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        raise TrainingError(
            f"The trained model could not be written: {in_one_line(error)}",
            "It would be lost in the end, so nothing was trained.",
            f"{'Make room' if full else f'Mend the model in {base}'}, or name another folder with --out (make: RUN=…).",
        ) from error
    finally:
        if not was_there:
            # Unless something else has been put there by now.
            with suppress(OSError):
                run.rmdir()


def _write(
    network: PreTrainedModel,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    temporary: Path,
) -> None:
    """Config, weights, and all that the base's folder holds beside its own."""
    # transformers would write the settings it has read, and refuses some of those that it reads.
    network.generation_config = GenerationConfig()
    network.save_pretrained(temporary, state_dict=weights)
    (temporary / GENERATION).unlink(missing_ok=True)
    copy_other_files(base, temporary)
    if hash_tokenizer(load_tokenizer(temporary)) != hash_tokenizer(tokenizer):
        raise ModelError(
            f"The tokenizer files in {base} do not give the student's tokenizer.",
            "The exported model would read other ids than it was trained on, so it was not written.",
            "Save the tokenizer into that folder:  tokenizer.save_pretrained(…)",
        )
