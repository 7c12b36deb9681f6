"""A model folder in, its network as transformers computes it out: the one place that loads weights into transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import ModelError
from stages.language_model.folder import attention_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_network(folder: Path, dtype: str) -> "PreTrainedModel":
    """The folder's model on the CPU, in this dtype. Raises ModelError if it cannot be loaded."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        network: PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention_of(folder)
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"transformers cannot load {folder}: {error}") from error
    return network
