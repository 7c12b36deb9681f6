"""What the teacher of a cache said, for people and for programs, and which rows a distillation leaves out because of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import SPLITS, Split
from stages.student.settings import ResponseFilter

if TYPE_CHECKING:
    from stages.evaluation.responses import Responses

FINDINGS: dict[Split, str] = {
    "forget": "forget rows on which the teacher does not decline",
    "retain": "retain rows on which it declines",
}
FILTERED: dict[ResponseFilter, tuple[Split, ...]] = {
    "none": (),
    "forget": ("forget",),
    "retain": ("retain",),
    "both": SPLITS,
}
NAMED = 5


def responses_of(cache: LogitCache, tokenizer: Any) -> "Responses":
    """The cached responses, judged by their text. tokenizer: one that the cache's token ids belong to."""
    from stages.evaluation.responses import read_responses

    return read_responses(cache, lambda ids: list(tokenizer.batch_decode(ids, skip_special_tokens=True)))


def summary(found: "Responses", *, named: int | None = NAMED) -> list[str]:
    """Lines that count the rows whose response does not fit their split, and name the first ones of each; None names all."""
    lines = []
    for split in SPLITS:
        misfits = found.of(split)
        lines.append(f"{FINDINGS[split]}: {_share(len(misfits), found.rows[split])}")
        lines += [f"    {each.query or each.example_id}  →  {each.response!r}" for each in misfits[:named]]
        if named is not None and len(misfits) > named:
            lines.append(f"    and {len(misfits) - named} more")
    if cut := sum(found.cut.values()):
        lines.append(
            f"{cut} of {sum(found.rows.values())} responses are cut off at the last cached position; "
            "one that begins as a refusal does counts as declining"
        )
    return lines


def as_json(found: "Responses") -> dict[str, Any]:
    """The same, whole, for programs: by split the rows, those cut off, and the misfits."""
    return {
        split: {
            "rows": found.rows[split],
            "cut": found.cut[split],
            "misfits": [
                {"example_id": each.example_id, "query": each.query, "response": each.response}
                for each in found.of(split)
            ],
        }
        for split in SPLITS
    }


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Rows of a cache that a distillation leaves out. rows: bool [rows]; counts: (left out, of) by split."""

    rows: np.ndarray
    counts: dict[Split, tuple[int, int]]

    def lines(self) -> list[str]:
        """One line for each split that is filtered."""
        return [
            f"Left out: {FINDINGS[split]}, {_share(count, of)}"
            for split, (count, of) in self.counts.items()
        ]  # fmt: skip


def left_out(cache: LogitCache, tokenizer: Any, response_filter: ResponseFilter) -> LeftOut | None:
    """The rows that this filter leaves out; None if it leaves nothing out whatever the cache holds."""
    splits: Sequence[Split] = FILTERED[response_filter]
    if not splits:
        return None
    from stages.evaluation.responses import rows_left_out

    found = responses_of(cache, tokenizer)
    counts = {split: (len(found.of(split)), found.rows[split]) for split in splits}
    return LeftOut(rows_left_out(found, splits), counts)


def _share(count: int, of: int) -> str:
    return f"{count} of {of}" + (f" ({count / of:.0%})".replace("%", " %") if of else "")
