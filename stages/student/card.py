"""The model card of a trained model: what it is, what it was made from, and its scores once there are any."""

from collections.abc import Sequence
from pathlib import Path

from stages.files import write_atomically
from stages.markdown_text import code, escaped, yaml_text
from stages.student.settings import RunSettings

SCORES_BEGIN, SCORES_END = "<!-- scores: begin -->", "<!-- scores: end -->"
NOT_YET = "Not evaluated yet. `duet evaluate` fills this in."


def unlearned_card(
    *,
    base: str,
    cache_id: str,
    settings: RunSettings,
    duet_version: str,
    other_teacher: str | None = None,
    left_out: Sequence[str] = (),
) -> str:
    """The card of a distilled student: Markdown with a YAML head that model hubs read. base: as the user named it.

    other_teacher: SHA-256 of the weights of the cache's teacher, if they are not the base's. left_out: which rows of the cache
    were not trained on, and how many, a line for each kind.
    """
    follows = (
        "the prefixed model"
        if other_teacher is None
        else f"another prefixed model than its own base (weights and config with SHA-256 `{other_teacher}`)"
    )
    rows_left_out = "".join(f"- {line}\n" for line in left_out)
    return _card(
        base,
        settings,
        tags="unlearning, duet",
        title=f"{escaped(Path(base).name)}, unlearned with DUET",
        about=f"""The effect of an unlearning prefix was distilled into the weights of {code(base)}
(DUET, ICLR 2026, arXiv 2601.21283): on the cached queries, this model's raw logits follow those of {follows}. It needs no prefix.

- Method: {settings.method_in_words}
- Logit cache: `{cache_id}`
{rows_left_out}- Made by duet {duet_version}

Unlearning of this kind changes what the model says. It is no proof that nothing can be recovered from the weights.""",
    )


def finetuned_card(*, base: str, files: Sequence[str], settings: RunSettings, duet_version: str) -> str:
    """The card of a fine-tuned model: one that is to forget, or that never knew."""
    listed = "\n".join(f"- Trained on: {code(file)}" for file in files)
    return _card(
        base,
        settings,
        tags="duet",
        title=f"{escaped(Path(base).name)}, fine-tuned",
        about=f"""{code(base)}, fine-tuned on questions with their answers, to study unlearning.

- Method: {settings.method_in_words}
{listed}
- Made by duet {duet_version}""",
    )


def _card(base: str, settings: RunSettings, *, tags: str, title: str, about: str) -> str:
    rows = "\n".join(f"| {name} | {escaped(str(value))} |" for name, value in settings.model_dump().items())
    return f"""---
base_model: {yaml_text(base)}
library_name: transformers
tags: [{tags}]
---

# {title}

{about}

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
