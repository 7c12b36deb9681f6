"""Logit lens: how likely the true answer's first token is after every layer, if the model had to speak there.

A model folder and questions in, one row per question and layer out. After each layer, the hidden state of the prompt's
last position goes through the final norm and the head, as only the last layer's does when the model speaks. A forgotten
answer that is likely in the middle and gone at the end is overwritten, not erased.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from stages.errors import ModelError
from stages.evaluation.completions import completion_ids
from stages.evaluation.interview import ModelRole
from stages.evaluation.metrics import mean_with_interval
from stages.evaluation.questions import Question
from stages.language_model.architectures import arguments_for
from stages.language_model.engine import Dtype
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LENS_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "number": pl.Int64,
    "question": pl.String,
    "reference": pl.String,
    "token": pl.String,
    "layer": pl.Int64,
    "layers": pl.Int64,
    "probability": pl.Float64,
}
LENS_SCORE_SCHEMA = {
    "model": pl.String,
    "file": pl.String,
    "layer": pl.Int64,
    "layers": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}
POINTS = 100.0
# What transformers' decoders call the norm behind their last layer.
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "final_norm", "ln_f", "norm_f")
# The lens on the last layer against the model's own logits, as a share of the largest: rounding, in float32 and in bfloat16.
AGREEMENT = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}


def lens(
    model: Path,
    prompter: Prompter,
    files: Mapping[str, Sequence[Question]],
    *,
    role: ModelRole,
    prefix: Prefix | None = None,
    dtype: Dtype,
    batch_rows: int,
    advance: Callable[[int], None] = lambda done: None,
) -> pl.DataFrame:
    """Probability (0–1) of the true answer's first token after layers 0 (the embeddings) to L, for every question.

    The token and the prompt are those of `completion_ids`: behind the question's answer_start where it has one.
    batch_rows: prompts read at once. advance: told how many questions were done since it was last called.
    Returns L + 1 rows per question, columns `LENS_SCHEMA`; `layers` is L. Needs transformers, whatever engine is set.
    Raises ModelError if the last layer's logits are not the model's own: then final norm and head were not found, and the
    other layers' would be wrong as well. Raises EngineOutOfMemory as an engine does.
    """
    import torch

    from stages.language_model.loading import load_network
    from stages.language_model.reading import Reader
    from stages.language_model.transformers_engine import memory_named

    asked = [(file, number, each) for file, questions in files.items() for number, each in enumerate(questions)]
    texts = [completion_ids(prompter, question, question.answer, prefix) for _, _, question in asked]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(model, dtype).to(device).eval()
    found: dict[int, list[float]] = {}
    with memory_named(batch_rows), torch.inference_mode():
        for rows in Reader(network).batches([len(prompt_ids) for prompt_ids, _ in texts], batch_rows):
            logits_BMV = _logits_of_layers(network, [texts[row][0] for row in rows], AGREEMENT[dtype])
            for row, logits_MV in zip(rows, logits_BMV, strict=True):
                found[row] = logits_MV.float().softmax(dim=-1)[:, texts[row][1][0]].tolist()
            advance(len(rows))
    records = [
        {
            "model": role,
            "file": file,
            "number": number,
            "question": question.question,
            "reference": question.answer,
            "token": prompter.tokenizer.decode(texts[row][1][:1]),
            "layer": layer,
            "layers": len(found[row]) - 1,
            "probability": probability,
        }
        for row, (file, number, question) in enumerate(asked)
        for layer, probability in enumerate(found[row])
    ]
    return pl.DataFrame(records, schema=LENS_SCHEMA)


def lens_scores(found: pl.DataFrame) -> pl.DataFrame:
    """Tidy: per model, file and layer the mean probability over questions, in points, with its interval and n."""
    rows = [
        {
            "model": model,
            "file": file,
            "layer": layer,
            "layers": group["layers"][0],
            **vars(mean_with_interval((group["probability"] * POINTS).to_list())),
        }
        for (model, file, layer), group in found.group_by(["model", "file", "layer"], maintain_order=True)
    ]
    return pl.DataFrame(rows, schema=LENS_SCORE_SCHEMA)


def _logits_of_layers(network: "PreTrainedModel", prompts: Sequence[Sequence[int]], agreement: float) -> "torch.Tensor":
    """[B, M, V]: the logits at each prompt's last position after each of M = L + 1 layers, in the model's dtype."""
    import torch

    width = max(map(len, prompts))
    # Padded on the left, so that all last positions stand in one column.
    input_BT = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=network.device)
    read: dict[str, Any] = {}
    # A network that does not take padding reads prompts of one length.
    if min(map(len, prompts)) < width:
        mask_BT = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=network.device
        )
        read = {"attention_mask": mask_BT, "position_ids": (mask_BT.cumsum(dim=1) - 1).clamp(min=0)}
    norm = _final_norm(network)
    last: list[torch.Tensor] = []
    # transformers norms the last of the hidden states that it gives, and not the others: its input is taken instead.
    hook = norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0][:, -1]))
    try:
        told = network(
            input_BT,
            output_hidden_states=True,
            use_cache=False,
            **arguments_for(network, logits_to_keep=1, output_router_logits=False, **read),
        )
    finally:
        hook.remove()
    hidden_BMH = torch.stack([*(hidden_BTH[:, -1] for hidden_BTH in told.hidden_states[:-1]), last[-1]], dim=1)
    normed_NH = norm(hidden_BMH.flatten(0, 1))
    if told.hidden_states[-1].shape[-1] != normed_NH.shape[-1]:
        raise _not_read(network, "has something between its final norm and its head")
    with _decoder_saying(network, normed_NH[:, None]):
        logits_N1V = network(input_BT.new_zeros(len(normed_NH), 1), use_cache=False).logits
    logits_BMV: torch.Tensor = logits_N1V.view(*hidden_BMH.shape[:2], -1)
    own_BV = told.logits[:, -1]
    difference = float((logits_BMV[:, -1] - own_BV).abs().max() / own_BV.abs().max())
    if not difference <= agreement:
        raise _not_read(network, f"is off its own logits by {difference:.1%} where the lens reads its last layer")
    return logits_BMV


def _final_norm(network: "PreTrainedModel") -> "torch.nn.Module":
    """The norm between the last layer and the head. Raises ModelError if there is none under a known name."""
    decoder = network.get_decoder()
    for name in FINAL_NORMS:
        if (norm := getattr(decoder, name, None)) is not None:
            found: torch.nn.Module = norm
            return found
    raise _not_read(network, "has no norm behind its last layer under a name that is known here")


def _not_read(network: "PreTrainedModel", found: str) -> ModelError:
    return ModelError(
        f"{type(network).__name__} {found}.",
        "Its hidden states cannot be read as its last layer's are, so no layer was.",
        "Leave the lens out for this model.",
    )


@contextmanager
def _decoder_saying(network: "PreTrainedModel", hidden_BTH: "torch.Tensor") -> Iterator[None]:
    """Within it, the decoder gives these states whatever it is asked, so that the model's own head reads them.

    The head is more than a matrix: it soft-caps logits (Gemma 2) or scales them (Cohere, Granite).
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    decoder: Any = network.get_decoder()
    # An attribute of the object goes before its class's method.
    decoder.forward = lambda *_, **__: BaseModelOutputWithPast(last_hidden_state=hidden_BTH)
    try:
        yield
    finally:
        del decoder.forward
