"""Stage two, step four: the student inside DeepSpeed. The only module that imports DeepSpeed.

A model folder in; a network that is sharded, stepped, saved, loaded and gathered again out. It knows nothing of the
cache or of the objective.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations import HfDeepSpeedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.errors import TrainingError
from stages.language_model.architectures import own_network, takes_padding
from stages.language_model.hardware import core_count, cuda_is_available
from stages.language_model.loading import load_network
from stages.student.checkpoints import Checkpoint
from stages.student.settings import TrainingSettings, deepspeed_config

UNIVERSAL = "universal"
# What a second pass costs, in tokens: with SmolLM2-135M on two cores.
SECOND_PASS_TOKENS = 128


class StudentEngine:
    """A network under DeepSpeed, as it begins or as a checkpoint left it. All processes make it, and call it, together.

    Raises ModelError if the model cannot be loaded.
    """

    def __init__(self, model: Path, settings: TrainingSettings, start_from: Checkpoint | None = None) -> None:
        self._settings = settings
        world = dist.get_world_size()
        config = deepspeed_config(settings, world=world)
        check_config(config)
        # A checkpoint of another number of processes is made universal first. Without ZeRO every process saved all.
        converted = start_from is not None and start_from.world != world and settings.zero_stage > 0
        if converted:
            config["checkpoint"] = {"load_universal": True}
        # Alive while the model loads: under ZeRO-3 each process then keeps only its part of every weight.
        zero3 = HfDeepSpeedConfig(config) if settings.zero_stage == 3 else None
        network = _load(model, settings)
        del zero3
        self._engine, _, _, _ = deepspeed.initialize(
            model=network, model_parameters=[p for p in network.parameters() if p.requires_grad], config=config
        )
        self.prepare_to_train()
        if start_from is not None:
            folder = _make_universal(start_from, settings.section) if converted else start_from.folder
            # Strict unless frozen weights were left out.
            strict = settings.method == "full"
            loaded, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name, load_module_strict=strict)
            if loaded is None:
                raise TrainingError(f"DeepSpeed cannot load {folder}.", "Nothing was trained.")

    def __call__(self, **inputs: Any) -> Any:
        """The network's forward pass."""
        return self._engine(**inputs)

    @property
    def network(self) -> PreTrainedModel:
        """The network itself. Under ZeRO-3 its weights are in parts."""
        network: PreTrainedModel = self._engine.module
        return network

    @property
    def device(self) -> torch.device:
        return torch.device(self._engine.device)

    @property
    def share_from(self) -> int | None:
        """How many tokens it must save to read what all rows of a micro-batch begin with as one row; None: that is not done.

        Never where layers keep something else than the keys and values of all tokens, or where padding may change logits.
        """
        own = self._settings
        if not takes_padding(own_network(self.network)):
            return None
        layers = DynamicCache(config=self.network.config).layers
        if any(type(layer) is not DynamicLayer for layer in layers):
            return None
        if own.share_beginning is None:
            pays = self.device.type == "cpu" and own.zero_stage < 3 and not own.activation_checkpointing
            return SECOND_PASS_TOKENS if pays else None
        return 1 if own.share_beginning else None

    def prepare_to_train(self) -> None:
        """Compute as in evaluation from here on, and keep what the backward pass needs. To be called before every training.

        Dropout, dropped layers and a router's noise stay off: the student begins with its base's logits, and nothing in a
        training is random but what the settings name.
        """
        self._engine.eval()
        if self._settings.activation_checkpointing:
            keep_checkpointing(self.network)

    def set_learning_rate(self, rate: float) -> None:
        """The rate of the next step."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def backward_and_step(self, loss: torch.Tensor) -> float | None:
        """Backward, and an optimiser step if this was the batch's last micro-batch.

        Returns the norm of the whole gradient before clipping then, else None.
        """
        self._engine.backward(loss)
        is_last = self._engine.is_gradient_accumulation_boundary()
        # Without ZeRO, DeepSpeed clips but does not tell the norm; the gradients are averaged by now.
        plain = self._settings.zero_stage == 0 and not self._engine.bfloat16_enabled()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None] if plain and is_last else []
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else None
        self._engine.step()
        return float(self._engine.get_global_grad_norm()) if is_last and norm is None else norm

    def save(self, folder: Path, tag: str) -> None:
        """Write the state of training into folder/tag: each process its part. Neither atomic nor checked."""
        # What LoRA freezes lies in the base's files already.
        lora = self._settings.method == "lora"
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=lora)

    def consolidated_weights(self) -> dict[str, torch.Tensor]:
        """Every weight, whole, on the CPU of process 0; elsewhere an empty dict. Under LoRA the adapters' only."""
        leads = dist.get_rank() == 0
        weights: dict[str, torch.Tensor] = {}
        for name, parameter in self.network.named_parameters():
            if not parameter.requires_grad:
                continue
            # One at a time: under ZeRO-3 a weight is whole only inside this block.
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._settings.zero_stage == 3):
                if leads:
                    weights[name] = parameter.detach().to("cpu", copy=True)
        if leads and self._settings.method == "full":
            saved = self.network.state_dict().keys()
            buffers = [(name, value) for name, value in self.network.named_buffers() if name in saved]
            weights.update({name: value.detach().to("cpu", copy=True) for name, value in buffers})
        return weights


def keep_checkpointing(network: torch.nn.Module) -> None:
    """Let a network in evaluation mode recompute its layers in the backward pass, which transformers does in training only."""
    for layer in _recomputable(network):
        layer.training = True
        layer._gradient_checkpointing_func = _recomputed


def _recomputable(network: torch.nn.Module) -> list[GradientCheckpointingLayer]:
    return [each for each in network.modules() if isinstance(each, GradientCheckpointingLayer)]


def _recomputed(forward: "partial[Any]", *inputs: Any) -> Any:
    """A layer's output, to be computed again in the backward pass. forward: the layer's own call, with its keywords."""
    layer = forward.func.__self__  # type: ignore[attr-defined]

    def evaluated(*again: Any) -> Any:
        # Some layers call dropout themselves, with this flag.
        layer.training = False
        try:
            return forward(*again)
        finally:
            layer.training = True

    return checkpoint(evaluated, *inputs, use_reentrant=False)


def start_process_group() -> None:
    """Join the launcher's processes, or be the only one."""
    if dist.is_initialized():
        return
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    if not cuda_is_available():
        torch.set_num_threads(
            max(core_count() // int(os.environ["LOCAL_WORLD_SIZE"]), 1)
            if "LOCAL_WORLD_SIZE" in os.environ
            else core_count()
        )
    # DeepSpeed would spend minutes on compiling collectives for processes that share memory, and one that is killed in the
    # meantime leaves a lock in the user's cache for which every later training waits for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if cuda_is_available() else "gloo", verbose=False)


def check_config(config: dict[str, Any]) -> None:
    """Raise TrainingError if DeepSpeed would refuse the configuration, which it does only after the model is loaded."""
    try:
        DeepSpeedConfig(config)
    except (DeepSpeedConfigError, AssertionError, ValueError, KeyError) as error:
        raise TrainingError(
            f"DeepSpeed refuses its configuration: {' '.join(str(error).split())[:300]}.",
            "It is checked before the model is loaded, so nothing was trained.",
            "Change what the settings say about batches, ZeRO and offload; duet settings explains each.",
        ) from error
    if config["bf16"]["enabled"] and not get_accelerator().is_bf16_supported():
        raise TrainingError(
            "This GPU does not compute in bfloat16.",
            "DeepSpeed would refuse it after loading the model, so nothing was trained.",
            "Train in float32: set dtype to float32 in the section of this training.",
        )


def _make_universal(checkpoint: Checkpoint, section: str) -> Path:
    """The checkpoint in DeepSpeed's universal form, which any number of processes can load, beside it."""
    folder = checkpoint.folder.with_name(f"{UNIVERSAL}.partial")
    if dist.get_rank() == 0:
        converter = (sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state")
        paths = ("--input_folder", str(checkpoint.folder), "--output_folder", str(folder))
        done = subprocess.run([*converter, *paths], capture_output=True, text=True, check=False)
        if done.returncode:
            raise TrainingError(
                f"{checkpoint.folder}, saved by {checkpoint.world} processes, cannot be made universal: "
                f"{done.stderr.strip().splitlines()[-1]}",
                "It is as it was; nothing was trained.",
                f"Go on with as many processes:  --set {section}.processes={checkpoint.world}",
            )
    dist.barrier()
    return folder


def _load(folder: Path, settings: TrainingSettings) -> PreTrainedModel:
    network = load_network(folder, settings.dtype)
    if settings.activation_checkpointing:
        if not network.supports_gradient_checkpointing or not _recomputable(network):
            raise TrainingError(
                f"transformers cannot recompute the layers of {type(network).__name__}.",
                "activation_checkpointing would save no memory, so nothing was trained.",
                f"Leave it out:  --set {settings.section}.activation_checkpointing=false",
            )
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.method == "lora":
        from stages.student.lora import add_adapters

        return add_adapters(network, settings)
    return network
