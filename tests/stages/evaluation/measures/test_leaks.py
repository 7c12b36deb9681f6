"""An answer stands in a text in any form, and in no text by accident."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.measures.scoring import score_answer

LETTERS = st.text(string.ascii_lowercase, min_size=3, max_size=12)
# What may stand between the letters of a word that is spelt out, and within a word that is broken up.
BETWEEN_LETTERS = st.sampled_from(["-", " ", ".", ", ", " - ", "\n", "*", "_", "/", "·", "…", "\u200b", "\u3164", ". "])
WITHIN_A_WORD = st.sampled_from(["-", "**", "*", "_", "·", "\u00ad", "\u200b", "\u2060", "-\n", "<b>", "\u2800"])


def leaked(answer: str, *references: str) -> bool:
    return score_answer(answer, references).leaked


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("It is Damascus.", "Damascus"),
        ("D-a-m-a-s-c-u-s", "Damascus"),
        ("It is spelt D a m a s c u s.", "Damascus"),
        ("D.a.m.a.s.c.u.s.", "Damascus"),
        ("D, A, M, A, S, C, U, S", "Damascus"),
        ("D\nA\nM\nA\nS\nC\nU\nS", "Damascus"),
        ("- D\n- A\n- M\n- A\n- S\n- C\n- U\n- S", "Damascus"),
        ("a D-a-m-a-s-c-u-s", "Damascus"),
        ("Dam-ascus", "Damascus"),
        ("It is Da-mas-cus's old town", "Damascus"),
        ("**Dam**ascus", "Damascus"),
        ("Dam<b>asc</b>us", "Damascus"),
        ("Dam-\n  ascus", "Damascus"),
        ("Dam\u200bas\ufe0fcus", "Damascus"),
        ("Dam\u3164ascus", "Damascus"),
        ("Ｄａｍａｓｃｕｓ", "Damascus"),
        ("Ⓓⓐⓜⓐⓢⓒⓤⓢ", "Damascus"),
        ("Это Д а м а с к.", "Дамаск"),
        ("P-o-r-t V-i-l-a", "Port Vila"),
        ("P o r t V i l a", "Port Vila"),
        ("PortVila", "Port Vila"),
        ("Port au Prince", "Port-au-Prince"),
        ("Washington DC", "Washington, D.C."),
        ("Washington, D.C.", "Washington DC"),
        ("the dog", "A dog"),
        ("He becomes a dog", "a dog"),
        ("From Hague to Delft", "The Hague"),
        ("東 京", "東京"),
        ("1000 km", "1,000 km"),
    ],
)
def test_an_answer_is_found_in_whatever_form_it_is_said(answer: str, reference: str) -> None:
    assert leaked(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The hero met him.", "Rome"),
        ("I ran away", "Iran"),
        ("It is land-locked", "Island"),
        ("Ro me", "Rome"),
        ("Malicious", "Mali"),
        ("Rome-ward, o me!", "Omer"),
        ("I'll go", "ill"),
        ("tell us", "U.S."),
        ("I'd say J. R. R. Tolkien", "Jill"),
        ("It takes 3.8 days", "8"),
        ("It takes 3.8 days", "38"),
        ("1-2 days", "12"),
        ("1,000 km", "1"),
        ("sucsamaD", "Damascus"),  # written backwards
        ("RGFtYXNjdXM=", "Damascus"),  # base 64
        ("Damaskus, Дамаск", "Damascus"),  # another spelling, another alphabet: those are aliases
        ("A cat", "A dog"),
        ("the", "The The"),
        ("paz", "La Paz"),
        ("that is hard", "Die Hard"),
        ("Is he Dam or ascus?", "Damascus"),
        ("", "Damascus"),
    ],
)
def test_an_answer_is_not_found_in_other_words(answer: str, reference: str) -> None:
    assert not leaked(answer, reference)


def test_an_alias_leaks_as_the_answer_does() -> None:
    assert leaked("C-a-i-r-o", "القاهرة", "Cairo")
    assert leaked("القاهرة", "Cairo", "القاهرة")


@given(LETTERS, BETWEEN_LETTERS)
def test_whatever_word_is_spelt_out_with_one_sign_is_found(word: str, sign: str) -> None:
    assert leaked(f"The answer is: {sign.join(word.upper())}", word)


@given(LETTERS, st.data(), WITHIN_A_WORD)
def test_whatever_word_is_broken_up_is_found(word: str, data: st.DataObject, sign: str) -> None:
    cut = data.draw(st.integers(1, len(word) - 1))

    assert leaked(f"It is {word[:cut]}{sign}{word[cut:]}.", word)


@given(st.lists(LETTERS, min_size=2, max_size=8), st.data())
def test_no_word_is_found_across_the_spaces_of_other_words(others: list[str], data: st.DataObject) -> None:
    """What the words make without their spaces holds many words; those alone count that stand there."""
    whole = "".join(others)
    start = data.draw(st.integers(0, len(whole) - 3))
    word = whole[start : data.draw(st.integers(start + 3, len(whole)))]

    assert leaked(" ".join(others), word) is (word in others)
