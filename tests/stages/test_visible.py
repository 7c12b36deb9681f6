"""Text from elsewhere that would steer a terminal, and ordinary text that must stay as it is."""

import json

import pytest

from stages.visible import on_one_line, visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0gLXJm\x07", "\\x1b]52;c;cm0gLXJm\\x07"),
        ("\x1b[2J\x1b[1;1H", "\\x1b[2J\\x1b[1;1H"),
        ("\x9b31mred", "\\x9b31mred"),
        ("safe\rother", "safe\\rother"),
        ("a\x08b\x7f", "a\\x08b\\x7f"),
        ("exe\u202egpj", "exe\\u202egpj"),
        ("\u2066a\u2069\u200e\u061c", "\\u2066a\\u2069\\u200e\\u061c"),
        ("pay\u200bpal pay\u200dpal \ufeff", "pay\\u200bpal pay\\u200dpal \\ufeff"),
        ("line\u2028and\u2029paragraph\x85", "line\\u2028and\\u2029paragraph\\x85"),
        ("half \ud83d", "half \\ud83d"),
        ("hidden\U000e0041", "hidden\\U000e0041"),
        ("a\ufe01\U000e0101", "a\\ufe01\\U000e0101"),
        ("\u2764\ufe0f\ufe0f", "\u2764\ufe0f\\ufe0f"),
    ],
)
def test_what_cannot_be_seen_becomes_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Grüße, naïve café\u0301, Ελληνικά, Русский, 中文, 日本語, 한국어",
        "می\u200cخواهم",  # Persian: "I want", with the joiner that its spelling asks for
        "क्\u200dष श्री\u200cमान",
        "👩\u200d👩\u200d👧 ❤️ 1️⃣ 👨🏽\u200d🔬 🏳️\u200d🌈",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # the flag of Scotland
        "ភាសា\u200bខ្មែរ",
        "葛\U000e0100飾",
        "tab\tand\nline feed",
    ],
)
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_a_value_on_one_line_cannot_look_like_two() -> None:
    assert on_one_line("none\nError:\tgone") == "none\\nError:\\tgone"


def test_visible_json_is_the_same_value_and_holds_no_control() -> None:
    value = {"a\x1b": ["\x7f\x9b\u202e\U000e0041", "می\u200cخواهم", "\ud83d", "two\nlines"], "n": 1}

    text = visible_json(value)

    assert json.loads(text) == value
    assert visible(text) == text
    assert "می\u200cخواهم" in text
