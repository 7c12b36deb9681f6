"""Does an answer say nothing, or the same again and again?"""

from collections.abc import Sequence

from stages.texts import is_character_word

LONGEST_PHRASE_WORDS = 8
# Where a word is a character, a phrase has more of them.
LONGEST_PHRASE_CHARACTERS = 32
REPEATS_IN_A_ROW = 3


def is_degenerate(said: Sequence[str]) -> bool:
    """Whether the answer has no word, or repeats a phrase three times in a row ("I'm sorry I'm sorry …").

    The phrase has up to 8 words, or up to 32 of those that are a character.
    """
    if len(set(said)) == len(said):
        return not said
    longest = LONGEST_PHRASE_CHARACTERS if any(map(is_character_word, said)) else LONGEST_PHRASE_WORDS
    return any(_longest_run(said, size) >= (REPEATS_IN_A_ROW - 1) * size for size in range(1, longest + 1))


def _longest_run(said: Sequence[str], size: int) -> int:
    """Most words in a row that equal the word `size` before. A phrase said r times in a row makes (r - 1) × size."""
    longest = run = 0
    for one, other in zip(said, said[size:], strict=False):
        if one == other:
            run += 1
        elif run:
            longest, run = max(longest, run), 0
    return max(longest, run)
