"""Text that would be markup, in Markdown that shows it as it is, as a parser of CommonMark reads it."""

import pytest
from markdown_it import MarkdownIt

from stages.markdown_text import code, escaped, yaml_text
from stages.student.card import finetuned_card
from stages.student.settings import FinetuneSettings

HOSTILE = [
    "![beacon](http://evil.example/x.png)",
    "[link](javascript:alert(1)) [ref][1] [^note]",
    "<script>alert(1)</script><img src=x onerror=y>",
    "`code` ``more`` **bold** __bold__ _x_ ~~gone~~",
    "| a | cell |",
    "# heading",
    "- list",
    "+ list",
    "12. list",
    "3) list",
    "> quoted",
    "---",
    "===",
    "www.evil.example http://evil.example a@b.example",
    "&lt;b&gt; &#x202e;",
    "back\\slash\\",
    "    indented",
    "[x]: http://evil.example",
]


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("frame", ["{}", "| {} | b |", "# {}", "- fact: {}"])
def test_hostile_text_is_shown_and_makes_no_markup(text: str, frame: str) -> None:
    parser = MarkdownIt("gfm-like", {"linkify": False})
    head = "| a | b |\n|---|---|\n" if frame.startswith("|") else ""
    tokens = parser.parse(head + frame.format(escaped(text)) + "\n")

    inline = [token for token in tokens if token.type == "inline"]
    children = [child for token in inline for child in token.children or ()]
    assert {child.type for child in children} <= {"text", "text_special"}
    shown = "\n".join("".join(child.content for child in token.children or ()) for token in inline)
    assert plain(text) in shown
    allowed = {"|": 4 + 1 + 2, "#": 1, "-": 1, "{": 1}[frame[0]]
    assert len(inline) <= allowed
    assert not {token.type for token in tokens} & {
        "html_block",
        "code_block",
        "hr",
        "blockquote_open",
        "ordered_list_open",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("costs $5 and $6", r"costs \$5 and \$6"),
        ("ask @team about #12", r"ask \@team about \#12"),
        ("leak@k of a@b.example", r"leak@k of a\@b.example"),
        ("so :smile: at 12:30:45", r"so \:smile: at 12:30:45"),
        ("a note[^1]", r"a note\[^1]"),
        ("10.0 [5.0, 15.0], −3 and 95 %", "10.0 [5.0, 15.0], −3 and 95 %"),
        ("forget_paraphrase", "forget_paraphrase"),
        ("a\u202eb\x1b", "a⟨U+202E⟩b⟨U+001B⟩"),
        ("two\r\nlines", "two lines"),
    ],
)
def test_what_only_some_parsers_know_is_escaped_and_ordinary_text_is_not(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_code_holds_backticks_and_no_line_end() -> None:
    assert code("a`b``c") == "```a`b``c```"
    assert code("`a`") == "`` `a` ``"
    assert code("a\n\n# b") == "`a # b`"


def test_a_name_can_neither_end_a_yaml_head_nor_add_a_key() -> None:
    assert yaml_text("owner/name-1.5B") == "owner/name-1.5B"
    assert yaml_text("x\n---\nlicense: mit") == '"x --- license: mit"'
    assert yaml_text("true") == '"true"'
    assert yaml_text('a: "b" # c') == '"a: \\"b\\" # c"'


def test_a_card_of_a_hostile_name_keeps_its_head() -> None:
    name = "x\n---\nlicense: mit\n# ![b](http://e) `y`"
    card = finetuned_card(base=name, files=["f`\n# g"], settings=FinetuneSettings(), duet_version="0")

    head = card.split("---\n")[1].splitlines()
    assert [line.partition(":")[0] for line in head] == ["base_model", "library_name", "tags"]
    assert [line for line in card.splitlines() if line.startswith("#")][1:] == ["## Scores", "## Training"]
