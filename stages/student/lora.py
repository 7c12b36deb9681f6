"""LoRA: a frozen base with small trained adapters. The only module that imports PEFT.

Wraps the network before training, and afterwards writes the adapter by itself and gives the base with the adapter merged
in. The base's weights are never trained, and the merged ones are made from its own files.
"""

from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel

from stages.errors import TrainingError
from stages.language_model.folder import publish
from stages.language_model.loading import load_network
from stages.student.export import written_beside
from stages.student.settings import TrainingSettings


def add_adapters(network: PreTrainedModel, settings: TrainingSettings) -> peft.PeftModel:
    """The network with its weights frozen and a trainable adapter on each targeted linear layer.

    At the start its logits are those of the bare network; the adapters' first weights come from settings.seed.
    Raises TrainingError if the targets match no module, or one that cannot have an adapter.
    """
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=_targets(network, settings),
        # Nothing but the order of the rows and the first weights is random.
        lora_dropout=0.0,
    )
    if settings.activation_checkpointing:
        # Else the first checkpointed block sees no input that needs a gradient, and recomputes nothing.
        network.enable_input_require_grads()
    torch.manual_seed(settings.seed)
    # In the base's dtype: DeepSpeed keeps the float32 master weights.
    wrapped: peft.PeftModel = peft.get_peft_model(network, config, autocast_adapter_dtype=False)
    return wrapped


def export_adapter(
    network: peft.PeftModel, weights: dict[str, torch.Tensor], folder: Path, *, base: str, card: str
) -> None:
    """Write the adapter as a folder in PEFT's own format, safetensors, whole or not at all.

    weights: the trained ones by their names in the network, on the CPU. base: the model's name as the settings give it.
    card: README.md. Raises TrainingError if there is no room.
    """
    network.peft_config["default"].base_model_name_or_path = base
    with written_beside(folder) as temporary:
        network.save_pretrained(str(temporary), state_dict=weights, save_embedding_layers=False)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    publish(temporary, folder)


def merge_adapter(base: Path, adapter: Path, *, dtype: str) -> PreTrainedModel:
    """The base, loaded anew on the CPU, with the adapter folder merged into its weights: an ordinary model."""
    network = load_network(base, dtype)
    merged: PreTrainedModel = peft.PeftModel.from_pretrained(
        network, adapter, autocast_adapter_dtype=False
    ).merge_and_unload(safe_merge=True)
    return merged


def _targets(network: PreTrainedModel, settings: TrainingSettings) -> list[str]:
    """Last parts of the names of the linear layers that get an adapter."""
    head = network.get_output_embeddings()
    linear = {
        name: name.rpartition(".")[2]
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    possible = sorted(set(linear.values()))
    if settings.lora_targets is None:
        return possible
    if unknown := [target for target in settings.lora_targets if target not in possible]:
        raise TrainingError(
            f"{settings.section}.lora_targets names {unknown[0]!r}, and no linear layer of the model is called so.",
            "An adapter there would not exist, so nothing was trained.",
            f"Known in this model:  {', '.join(possible)}",
        )
    return list(settings.lora_targets)
