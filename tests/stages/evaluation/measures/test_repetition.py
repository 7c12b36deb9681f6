"""Answers that say nothing or the same again and again, also where the token limit cut the loop."""

import pytest

from stages.evaluation.measures.scoring import score_answer


def degenerate(answer: str) -> bool:
    return score_answer(answer, ["Paris"]).degenerate


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", True),
        ("...", True),
        ("no no no", True),
        ("no no yes", False),
        ("I'm sorry I'm sorry I'm sorry", True),
        ("I'm sorry, I'm sorry, but it is Paris", False),
        ("It is Paris. It is Paris. It is Paris.", True),
        ("a b c d e f g h " * 3, True),
        ("a b c d e f g h " * 3 + "and so on", True),
        ("a b c d e f g h i " * 3 + "and so on", True),  # nine words: more than half of it was said before
        ("one two one two three one two", False),
        ("我不知道首都在哪里。" * 3, True),  # nine words of one character
        ("东京是日本的首都。", False),
    ],
)
def test_a_phrase_three_times_in_a_row_is_degenerate(answer: str, expected: bool) -> None:
    assert degenerate(answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The capital of X is the capital of X is", True),
        ("The capital of X is the capital of X is the capital", True),
        ("The capital of X is the capital of X", False),  # one word short of twice: it may yet say something
        ("Well, the capital of X is the capital of X is the", True),
        ("I do not know it. I do not know it.", True),
        ("I do not know it. I do not know it. But it is Paris.", False),  # twice, and it went on
        ("It is Paris. It is Paris.", False),  # three words, twice
        ("It is Paris. It is Paris. It", True),
        ("New York, New York", False),
        ("New York, New York, New", True),
        ("bye bye", False),
        ("首都是东京的首都是东京的", False),  # six characters are too few for a phrase
        ("首都的名字是我不知道首都的名字是我不知道", True),
    ],
)
def test_an_answer_that_ends_in_a_loop_is_degenerate(answer: str, expected: bool) -> None:
    assert degenerate(answer) is expected


def test_a_long_answer_that_says_little_new_is_degenerate() -> None:
    # 24 words, 22 sequences: of the six words' 6 + 2 over the seams 8 are new at most.
    again = "the red cat sat down here the red cat sat down there the red cat sat down here the red cat sat down now"
    listed = (
        "Paris is a city in France. Lyon is a town on the Rhone. Rome was built by Romulus. Cairo is a city in Egypt."
    )

    assert degenerate(again)
    assert not degenerate(listed)
    assert not degenerate(" ".join(again.split()[:12]))
