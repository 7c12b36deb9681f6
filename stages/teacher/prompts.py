"""Stage one, step two: each query as the teacher reads it and as the student reads it.

Queries in, pairs of token ids out. Nothing is ever truncated: a prompt that does not fit is refused, since half a prefix
is another prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.errors import DataError
from stages.language_model.engine import shared_length
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter
from stages.logit_cache.rows import Split, example_id
from stages.teacher.queries import Queries


@dataclass(frozen=True)
class Prompt:
    """One example before the teacher has seen it.

    teacher_ids: prefix ⊕ query (or the query alone, see `build_prompts`). student_ids: the query alone.
    """

    example_id: str
    split: Split
    query: str
    teacher_ids: list[int]
    student_ids: list[int]


def build_prompts(
    queries: Queries, prefix: Prefix | None, prompter: Prompter, *, prefix_on_retain: bool
) -> list[Prompt]:
    """Forget queries first, then retain queries, each in file order.

    prefix: None asks every query as it stands, so that the teacher is the base model.
    prefix_on_retain: True is the paper's objective (eq. 3); False asks retain queries without the prefix, so that the
        student is held to what it was.
    Raises DataError if the tokenizer reads two queries as one.
    """
    sets: list[tuple[Split, list[str], bool]] = [
        ("forget", queries.forget, True),
        ("retain", queries.retain, prefix_on_retain),
    ]
    prompts = [
        Prompt(example_id(query), split, query, prompter.ids(query, prefix if prefixed else None), prompter.ids(query))
        for split, texts, prefixed in sets
        for query in texts
    ]
    _refuse_same(prompts)
    return prompts


def _refuse_same(prompts: Sequence[Prompt]) -> None:
    """Raise DataError if the tokenizer drops what tells two queries apart: accents, or letters that it does not know."""
    seen: dict[tuple[int, ...], Prompt] = {}
    for prompt in prompts:
        other = seen.setdefault(tuple(prompt.student_ids), prompt)
        if other is not prompt:
            raise DataError(
                f"The model reads the same in {other.query!r} ({other.split}) and {prompt.query!r} ({prompt.split}).",
                "Its tokenizer has no tokens for what differs. Each query is asked once, so nothing was asked.",
                "Delete one of the two lines, or use a model that can read them.",
            )


def context_needed(prompts: Sequence[Prompt], *, positions: int, limit: int | None) -> int:
    """Tokens of the longest prompt with its continuation. Raises DataError if the model cannot hold them.

    limit: most tokens that it holds; None: it has no limit.
    """
    longest = max(prompts, key=lambda prompt: len(prompt.teacher_ids))
    needed = len(longest.teacher_ids) + positions
    if limit is not None and needed > limit:
        raise DataError(
            f"Prefix, query and {positions} positions take {needed} tokens, the model holds {limit}.",
            f"Nothing is truncated, because half a prefix is another prefix. The longest query is: {longest.query[:80]!r}",
            "Shorten the prefix (data.prefix) or the query, or set teacher.positions lower.",
        )
    return needed


def shared_prefix_ids(prompts: Sequence[Prompt]) -> list[int]:
    """Tokens that all forget prompts begin with: the unlearning prefix as the teacher reads it."""
    asked = [prompt.teacher_ids for prompt in prompts if prompt.split == "forget"]
    return asked[0][: shared_length(asked)]
