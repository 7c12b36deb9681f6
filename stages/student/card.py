"""The model card of an unlearned model: what it is, what it was made from, and its scores once there are any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.files import write_atomically

SCORES_BEGIN, SCORES_END = "<!-- scores: begin -->", "<!-- scores: end -->"
NOT_YET = "Not evaluated yet. `duet evaluate` fills this in."


def model_card(*, base: str, cache_id: str, student_settings: Mapping[str, Any], duet_version: str, method: str) -> str:
    """Markdown with a YAML head that model hubs read. method: how the weights were trained, in words."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in student_settings.items())
    return f"""---
base_model: {base}
library_name: transformers
tags: [unlearning, duet]
---

# {Path(base).name}, unlearned with DUET

The effect of an unlearning prefix was distilled into the weights of `{base}` (DUET, ICLR 2026, arXiv 2601.21283):
on the cached queries, this model's raw logits follow those of the prefixed model. It needs no prefix.

- Method: {method}
- Logit cache: `{cache_id}`
- Made by duet {duet_version}

Unlearning of this kind changes what the model says. It is no proof that nothing can be recovered from the weights.

## Scores

{SCORES_BEGIN}
{NOT_YET}
{SCORES_END}

## Training

| setting | value |
|---|---|
{rows}
"""


def write_scores(model: Path, table: str) -> bool:
    """Put a Markdown table into the card's score section. False if the folder has no such card."""
    card = model / "README.md"
    if not card.is_file():
        return False
    text = card.read_text(encoding="utf-8")
    head, begin, rest = text.partition(SCORES_BEGIN)
    _, end, tail = rest.partition(SCORES_END)
    if not begin or not end:
        return False
    write_atomically(card, f"{head}{begin}\n{table.strip()}\n{end}{tail}".encode())
    return True
