"""Does an answer say nothing, or the same again and again?"""

from collections.abc import Sequence

from stages.texts import is_character_word

LONGEST_PHRASE_WORDS = 8
REPEATS_IN_A_ROW = 3
# A phrase of so many words counts as a loop once it stands twice in a row at the end; a shorter one once it begins again.
LOOPED_WORDS = 4
SHORTEST_LOOP_WORDS = 2
# Of a longer answer, the share of its three-word sequences that stood in it before.
LONG_ANSWER_WORDS = 20
SEQUENCE_WORDS = 3
MOST_REPEATED = 0.5
# Where a word is a character, it takes so many to a word.
CHARACTERS = 2


def is_degenerate(said: Sequence[str]) -> bool:
    """Whether the answer has no word, or repeats itself in one of three ways.

    A phrase of up to 8 words stands three times in a row: "I'm sorry I'm sorry I'm sorry". The answer ends in a loop that
    the token limit may have cut: "the capital of X is the capital of X is the". More than half of the three-word sequences
    of an answer of 20 words or more stood in it before. Words that are one character count as half a word.
    """
    if len(set(said)) == len(said):
        return not said
    scale = CHARACTERS if any(map(is_character_word, said)) else 1
    return _repeats_in_a_row(said, scale) or _ends_in_a_loop(said, scale) or _says_little_new(said, scale)


def _repeats_in_a_row(said: Sequence[str], scale: int) -> bool:
    # A phrase said r times in a row makes (r - 1) × size words that equal the word one phrase earlier.
    sizes = range(1, min(LONGEST_PHRASE_WORDS * scale, len(said) // REPEATS_IN_A_ROW) + 1)
    return any(_longest_run(said, size) >= (REPEATS_IN_A_ROW - 1) * size for size in sizes)


def _longest_run(said: Sequence[str], size: int) -> int:
    """Most words in a row that equal the word `size` before."""
    longest = run = 0
    for one, other in zip(said, said[size:], strict=False):
        if one == other:
            run += 1
        elif run:
            longest, run = max(longest, run), 0
    return max(longest, run)


def _ends_in_a_loop(said: Sequence[str], scale: int) -> bool:
    for size in range(SHORTEST_LOOP_WORDS * scale, len(said) // 2 + 1):
        begun_again = 0 if size >= LOOPED_WORDS * scale else 1
        needed = size + begun_again
        if (
            said[-1] == said[-1 - size]
            and len(said) >= size + needed
            and said[-needed:] == said[-needed - size : -size]
        ):
            return True
    return False


def _says_little_new(said: Sequence[str], scale: int) -> bool:
    if len(said) < LONG_ANSWER_WORDS * scale:
        return False
    size = SEQUENCE_WORDS * scale
    sequences = [tuple(said[at : at + size]) for at in range(len(said) - size + 1)]
    return 1 - len(set(sequences)) / len(sequences) > MOST_REPEATED
