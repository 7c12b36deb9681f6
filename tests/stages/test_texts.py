"""What can be seen of a text, and which texts a reader takes for the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.texts import _words_of_any_script, is_blank, same_text, unfit_character, words

UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u00a0\u3000\u2028\u2800\u3164\uffa0\u115f\u1160\u034f\u180e\ufe0f\ue000\t\n\x00"


@pytest.mark.parametrize("text", ["", " ", UNSEEN, *UNSEEN], ids=ascii)
def test_nothing_is_to_be_seen_of_spaces_formats_and_fillers(text: str) -> None:
    assert is_blank(text)
    assert not is_blank(f"{text}?")


@pytest.mark.parametrize("text", ["a", "?", "東", "😀", "é", "\u0301", "0", "ᅟa"], ids=ascii)
def test_a_letter_a_sign_or_a_mark_is_to_be_seen(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Où est l'île ?", "Où est l'île ?".replace("ù", "u\u0300").replace("î", "i\u0302")),
        ("Straße", "STRASSE"),
        ("İstanbul", "i\u0307stanbul"),
        ("Capital of Peru?", "Capital\u200b of\u00ad Peru?"),
        ("Capital of Peru?", "  capital\u00a0OF\u3000Peru?\n"),
        ("e\u200d\u0301", "é"),
        ("\u2126", "ω"),
        ("a\ufe0fb", "ab"),
    ],
)
def test_two_spellings_of_one_text_are_the_same(one: str, other: str) -> None:
    assert one != other
    assert same_text(one) == same_text(other)


@pytest.mark.parametrize(("one", "other"), [("Peru?", "Peru"), ("Bogotá", "Bogota"), ("a b", "ab"), ("x²", "x2")])
def test_two_texts_that_differ_to_the_eye_are_two(one: str, other: str) -> None:
    assert same_text(one) != same_text(other)


def test_tab_and_line_ends_are_the_only_control_characters_of_a_text() -> None:
    fit = [code for code in range(0xA0) if unfit_character(f"a{chr(code)}b") is None]

    assert fit == [*b"\t\n\r", *range(0x20, 0x7F)]
    assert unfit_character("a\udc80") == "half of a character, U+DC80"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's Bogotá: 3.5!", "it s bogota 3 5"),
        ("Straße, Москва́", "strasse москва"),
        ("capi\u00adtal", "capital"),
        ("می\u200cخواهم", "میخواهم"),
        ("مُحَمَّد", "محمد"),
        ("दिल्ली भारत", "दिल्ली भारत"),  # vowel signs and the virama are no accents, and end no word
        ("ガーナ", "ガ ー ナ"),  # the voicing mark distinguishes it from カーナ
        ("ｶﾞｰﾅ", "ガ ー ナ"),
        ("首都は東京です。", "首 都 は 東 京 で す"),
        ("서울입니다", "서 울 입 니 다"),
        ("AI2ไทยab", "ai2 ไ ท ย ab"),
        ("กรุง", "ก รุ ง"),
        ("🙂 …", ""),
    ],
)
def test_words_of_many_scripts(text: str, expected: str) -> None:
    assert words(text) == expected.split()


@given(st.text(st.one_of(st.characters(), st.sampled_from(" \t\u3000.-'_aAİßéñ水กक\u093f\u0301\u200b\ufe0f"))))
def test_words_are_the_same_by_the_fast_way_of_ascii_and_by_the_slow_one(text: str) -> None:
    assert words(text) == _words_of_any_script(text)
