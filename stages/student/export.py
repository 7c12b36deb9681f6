"""Stage two, last step: trained weights in, an ordinary Hugging Face folder out.

safetensors, tokenizer, chat template, generation settings and a model card. The folder appears whole, by rename.
"""

import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.files import TEMPORARY_SUFFIX, sync_folder

COPIED = ("generation_config.json",)


def export_model(
    network: PreTrainedModel,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    folder: Path,
    card: str,
) -> None:
    """Write the folder that transformers and vLLM load.

    network: only its config and class are used. weights: whole, on the CPU. base: the folder the student began as;
    its generation settings are kept. card: README.md, Markdown with a YAML head.
    """
    temporary = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    shutil.rmtree(temporary, ignore_errors=True)
    network.save_pretrained(temporary, state_dict=weights)
    tokenizer.save_pretrained(temporary)
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, temporary / name)
    (temporary / "README.md").write_text(card, encoding="utf-8")
    # An export made by an earlier, unfinished run of the same plan makes room only now.
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync_folder(folder.parent)
