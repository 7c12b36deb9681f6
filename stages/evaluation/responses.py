"""What a cache says of its own teacher: which cached responses decline, and which of them their split did not want.

A frozen cache and a decoder of token ids in; counts, and the rows whose response does not fit their split, out. No model is
asked. What the model would have answered without the prefix stands in no cache, so a response that declines nothing is not
known to be right; it is known not to teach forgetting.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.evaluation.measures.refusing import declines
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import SPLITS, Split

# How refusals begin. With T = 1, as in the paper, a cached response is cut after its first token, and "I" is all there is of
# "I don't know", and of "Iraq" as well. On 388 queries of capitals (SmolLM2-135M-Instruct) one token told the same as twelve for
# 383, and two tokens for all. Each opening is a refusal for `declines` itself.
OPENINGS = (
    "i'm sorry, but i don't know", "i'm sorry, i don't know", "i am sorry, but i don't know", "i am sorry, i don't know",
    "i apologize, but i don't know", "i apologise, but i don't know", "i don't know", "i do not know",
    "i don't have any information", "i don't recall", "i don't remember", "i cannot answer", "i can't answer",
    "i am unable to answer", "i am not able to answer", "i'm unable to answer", "i'm not sure", "i am not sure",
    "i'm not aware", "i'm not familiar", "i have no information", "i have forgotten", "i've forgotten",
)  # fmt: skip


def begins_to_decline(text: str) -> bool:
    """Whether a refusal may begin so. "I" does, and so may another answer; "The" does not."""
    said = text.strip().casefold().replace("’", "'")
    return bool(said) and any(opening.startswith(said) for opening in OPENINGS)


@dataclass(frozen=True)
class Misfit:
    """A row whose response is not what its split wants: a forget row that is answered, or a retain row that is declined.

    row: its index in the cache. query: empty in a cache that was pushed without text.
    """

    row: int
    split: Split
    example_id: str
    query: str
    response: str


@dataclass(frozen=True)
class Responses:
    """The responses of a cache. rows, cut: all rows, and those whose response was cut off before its end, by split."""

    rows: Mapping[Split, int]
    cut: Mapping[Split, int]
    misfits: tuple[Misfit, ...]

    def of(self, split: Split) -> list[Misfit]:
        """The misfits of one split, in the order of the cache."""
        return [each for each in self.misfits if each.split == split]


def read_responses(cache: LogitCache, decode: Callable[[Sequence[Sequence[int]]], list[str]]) -> Responses:
    """Judge every cached response by its text: forget rows should decline, retain rows should not.

    decode: token ids of many responses into their texts, special tokens left out. A response that was cut off counts as
    declining if a refusal may begin so. Raises CacheError if the cache is damaged.
    """
    frame = cache.frame(["example_id", "split", "query", "response_ids"])
    responses = frame["response_ids"].to_list()
    fingerprint = cache.manifest.fingerprint
    rows, cut, misfits = Counter[Split](), Counter[Split](), []
    columns = frame["example_id"], frame["split"], frame["query"], responses, decode(responses)
    for index, (example, split, query, ids, text) in enumerate(zip(*columns, strict=True)):
        is_cut = len(ids) == fingerprint.positions and ids[-1] not in (fingerprint.stop_ids or ())
        rows[split] += 1
        cut[split] += is_cut
        if (declines(text) or (is_cut and begins_to_decline(text))) != (split == "forget"):
            misfits.append(Misfit(index, split, example, query, text))
    return Responses({split: rows[split] for split in SPLITS}, {split: cut[split] for split in SPLITS}, tuple(misfits))


def rows_left_out(responses: Responses, splits: Sequence[Split]) -> np.ndarray:
    """bool [rows], True at the misfits of these splits."""
    left_out = np.zeros(sum(responses.rows.values()), dtype=bool)
    left_out[[each.row for each in responses.misfits if each.split in splits]] = True
    return left_out
