"""The document as a whole, in both its forms: nothing missing is silent, nothing foreign is markup, all of it is the same twice."""

import copy
import json
import re
import tomllib
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from rich_audit import rich_audit, run_record, steps

from pipeline.settings import Settings, load_settings
from stages.evaluation.report.build import build
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.document import Prose
from stages.evaluation.report.markdown import escaped, markdown
from stages.evaluation.report.page import html
from stages.evaluation.report.parts import AUDIT_ONLY, NO_REASON, PARTS, TITLES, missing
from stages.evaluation.report.rows import Audit, Step, Training
from stages.evaluation.report.sections.said import ON_VALIDATION, scores
from stages.evaluation.report.words import signed, visible
from stages.toml_text import toml_text

HOSTILE = (
    '<script>window.hacked=1</script><img src=x onerror="window.hacked=1"> | `](x) \u202egnirts\u202c '
    "</table> {{ 7*7 }} \ud800"
)


@cache
def rich() -> dict[str, Any]:
    return rich_audit()


def both(audit: dict[str, Any], **more: Any) -> tuple[str, str]:
    """HTML and Markdown, made once where they are those of the audit with every part."""
    return rich_pages() if audit is rich() and not more else made(audit, **more)


@cache
def rich_pages() -> tuple[str, str]:
    return made(rich())


def made(audit: dict[str, Any], **more: Any) -> tuple[str, str]:
    checked = Audit.model_validate(audit)
    document = build(
        checked, Training.model_validate(run_record()), [Step.model_validate(step) for step in steps()], **more
    )
    return html(document, generator="duet report test"), markdown(
        document, generator="duet report test", page="report.html"
    )


class Outline(HTMLParser):
    """Sections by id with their text, how many tables and pictures each has, and every tag and attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.section = ""
        self.text: dict[str, str] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        key = (self.section, tag)
        self.counts[key] = self.counts.get(key, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        self.section = "" if tag == "section" else self.section

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + data


def markdown_section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


SECTIONS = {
    "control": "scores", "perplexity": "scores", "first_tokens": "first-tokens", "leaks": "sampling", "relearning": "relearning",
    "quantisation": "quantisation", "lens": "layers", "weight_change": "layers", "membership": "membership",
    "choices": "choices", "instructions": "instructions",
}  # fmt: skip


def test_parts_that_were_not_measured_say_why_where_they_would_stand_and_at_the_end() -> None:
    audit = rich_audit(control=False)
    audit |= {part: None for part in PARTS if part in audit}
    audit["scores"] = [row for row in audit["scores"] if row["metric"] != "perplexity"]
    reasons = {part: f"no {part.replace('_', ' ')} today" for part in PARTS}
    audit["not_measured"] = {PARTS[part][0]: reason for part, reason in reasons.items()}
    page, card = both(audit)
    outline = Outline(page)

    for part, reason in reasons.items():
        assert f"{TITLES[part]} not measured: {reason}" in " ".join(outline.text[SECTIONS[part]].split())
        assert f"{TITLES[part]}{reason}" in outline.text["not-measured"]
        assert f"**{TITLES[part]}** not measured: {reason}" in card
        assert f"| {TITLES[part]} | {reason} |" in markdown_section(card, "Not measured")
        # Neither a table nor a picture stands where there is nothing to show.
        if SECTIONS[part] != "scores":
            assert (SECTIONS[part], "table") not in outline.counts
            assert (SECTIONS[part], "svg") not in outline.counts


@pytest.mark.parametrize(("there", "reason"), [(False, AUDIT_ONLY), (True, NO_REASON)])
def test_a_part_without_a_reason_is_told_from_one_that_the_file_never_had(there: bool, reason: str) -> None:
    audit = {key: value for key, value in rich().items() if key != "lens"} | ({"lens": None} if there else {})

    assert missing(Audit.model_validate(audit), "lens") == reason


def test_with_every_part_measured_each_section_has_its_figure_and_only_attacks_are_left_open() -> None:
    outline = Outline(both(rich())[0])

    for section, pictures in {"scores": 1, "first-tokens": 2, "trade": 4, "attacks": 2, "sampling": 1, "relearning": 2,
                              "quantisation": 1, "layers": 2, "membership": 1, "training": 2}.items():  # fmt: skip
        drawn = [attrs for tag, attrs in outline.tags if tag == "svg" and attrs.get("role") == "img"]
        assert outline.counts[section, "figure"] >= 1, section
        assert all(each["aria-label"] for each in drawn)
        assert outline.counts[section, "svg"] >= pictures, section
    assert set(re.findall(r"^(.*)$", outline.text["not-measured"].strip(), re.MULTILINE)) >= {
        "Attack other languageno file under evaluation.translated"
    }
    for title in TITLES.values():
        assert title not in outline.text["not-measured"]


def test_figures_of_the_page_are_those_of_the_audit() -> None:
    outline = Outline(both(rich())[0])
    (row,) = [
        s
        for s in rich()["scores"]
        if (s["model"], s["file"], s["attack"], s["metric"]) == ("student", "forget", None, "rouge_l_recall")
    ]

    assert f"{row['mean']:.1f} [{row['low']:.1f},\u00a0{row['high']:.1f}]" in outline.text["scores"]
    assert "36.0 [28.0,\u00a044.0]" in outline.text["quantisation"]
    assert "‖Δθ‖₂" in outline.text["layers"]
    # 40 steps of 3 s at 100 tokens a second, and 4 × 12 × (4 + 7) answers.
    assert "12\u202f000" in outline.text["costs"]
    assert "528" in outline.text["costs"]
    assert "not known: it was not looked for" in outline.text["costs"]
    assert "c" * 64 in outline.text["settings"]


def test_what_models_and_files_say_is_text_and_never_markup() -> None:
    audit = json.loads(
        json.dumps(rich())
        .replace("It is a country.", json.dumps(HOSTILE)[1:-1])
        .replace(" Lima", json.dumps(HOSTILE)[1:-1])
    )
    audit["not_measured"] |= {HOSTILE: HOSTILE}
    audit["run"]["base"] = audit["run"]["hardware"] = HOSTILE
    page, card = both(audit)
    outline = Outline(page)

    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in outline.tags}
    assert not [attrs for _, attrs in outline.tags for name in attrs if name.startswith("on") or name == "style"]
    assert "<script>window.hacked=1</script>" in outline.text["answers"]
    assert "{{ 7*7 }}" in outline.text["answers"]
    for text in (page, card):
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)
        text.encode()
    assert "⟨U+202E⟩gnirts⟨U+202C⟩" in outline.text["answers"]
    assert "⟨U+D800⟩" in outline.text["answers"]
    assert "<script" not in card
    assert "<img" not in card
    assert "`](" not in card.replace("\\`\\](", "")
    assert_tables_are_well_formed(card)


def test_the_page_holds_one_policy_that_forbids_all_it_does_not_hold() -> None:
    outline = Outline(both(rich())[0])

    (policy,) = [
        attrs["content"] for tag, attrs in outline.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/=]{44}'; script-src 'sha256-[\w+/=]{44}'; base-uri 'none'; form-action 'none'",
        policy,
    )
    linked = [value for _, attrs in outline.tags for name, value in attrs.items() if name in ("src", "href") and value]
    assert linked
    assert all(value.startswith("#") for value in linked)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {value[1:] for value in linked if value.startswith("#")} <= set(ids)


def assert_tables_are_well_formed(card: str) -> None:
    """As many cells in every row of a table as in its head."""
    tables = re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE)
    assert tables
    for table in tables:
        head, rule, *rows = table.splitlines()
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)]
        assert re.fullmatch(r"\|(:?-+:?\|)+", rule), rule
        assert len(set(cells)) == 1, table


def test_markdown_has_every_section_and_its_tables_are_well_formed() -> None:
    page, card = both(rich())

    assert card.startswith("<!-- duet report test -->\n# Rich-1B, unlearned\n")
    titles = re.findall(r'-title">(.*?)</h2>', page)
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == titles
    assert_tables_are_well_formed(card)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines", "two lines"),
        ("_x_ but forget_paraphrase", r"\_x\_ but forget_paraphrase"),
        ("![x](http://evil)", r"![x\](http:\//evil)"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("10.0 [5.0, 15.0]", "10.0 [5.0, 15.0]"),
    ],
)
def test_text_is_escaped_for_markdown(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_scores_on_validation_files_say_so() -> None:
    audit = copy.deepcopy(rich())
    audit["run"]["settings"]["evaluation"]["validation"] = audit["run"]["settings"]["evaluation"]["questions"]
    checked = Audit.model_validate(audit)

    assert scores(checked, Answers(checked)).blocks[0] == Prose(ON_VALIDATION)


def test_examples_are_capped_with_a_stated_count_the_leaks_first() -> None:
    page, _ = both(rich(), examples=2)
    outline = Outline(page)

    # Four files and seven attacks on one of them, of 12 questions each.
    assert "22 questions of 132: of every file and attack at most 2" in outline.text["answers"]
    assert sum("data-file" in attrs for _, attrs in outline.tags) == 22
    first = re.search(r'<li data-file="forget" data-attack="answer begun">.*?</li>', page, re.DOTALL)
    assert first
    assert re.search(r'<div class="student"><dt>student <span class="sign">gives the answer</span>', first[0])


def test_further_runs_are_points_of_their_own_name() -> None:
    outline = Outline(both(rich(), run="runs/a", others={"runs/b": Audit.model_validate(rich())})[0])

    labels = [attrs["aria-label"] or "" for tag, attrs in outline.tags if tag == "svg" and "aria-label" in attrs]
    assert sum("runs/a" in label and "runs/b" in label for label in labels) == 4
    assert "runs/b" in outline.text["trade"]


def test_settings_read_back_from_the_report_are_those_of_the_run() -> None:
    settings = load_settings("capitals")
    sections = settings.model_dump(mode="json", exclude={"sweep"})

    assert Settings.model_validate(tomllib.loads(toml_text(sections))) == settings
    odd = {
        "a": {
            "text": 'quote " back \\ line\n \x7f é',
            "none": None,
            "list": [1, 2.5, True],
            "in": {"a key": "x", "b": 1},
        }
    }
    assert tomllib.loads(toml_text(odd)) == {"a": {key: value for key, value in odd["a"].items() if value is not None}}


def test_figures_have_a_true_minus_and_zero_has_no_sign() -> None:
    assert [signed(value) for value in (1.25, -1.25, 0.0, -0.04, None)] == ["+1.2", "\u22121.2", "0.0", "0.0", "–"]
    assert visible("a\u202eb\tc\nd\x07") == "a⟨U+202E⟩b\tc\nd⟨U+0007⟩"
