"""`duet report` as a command, and its page in a real browser: what is seen, what is fetched, what runs."""

import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from rich_audit import STUDENT_SHA256, rich_audit, run_record, steps
from workspace import write_lines

from pipeline.cli import duet
from pipeline.report import audit_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = "</script></bdi><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u202eevil\u202c"
READABLE, SEEN = 4.5, 3.0  # WCAG 2.2: contrast of text (1.4.3), and of what a figure is read by (1.4.11)
# Contrast of one CSS colour on another, as WCAG 2.2 defines it; the browser itself resolves the colours.
CONTRAST = """([one, other]) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def make_run(folder: Path, audit: dict[str, Any] | None = None, name: str = "audit.json") -> Path:
    """A run's folder with an audit, the record of its training and its metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(audit or rich_audit()), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(run_record()), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", steps())
    return folder


def report(*arguments: object) -> Result:
    return CliRunner().invoke(duet, ["report", *map(str, arguments)])


def test_a_run_becomes_a_page_and_its_markdown_and_the_same_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")

    first = report("--run", run)
    assert first.exit_code == 0, first.output
    assert "Not shown to be forgotten: 7 of 7" in first.output
    written = {name: (run / name).read_bytes() for name in ("report.html", "report.md")}
    assert written["report.html"].startswith(b"<!doctype html>")

    assert report("--run", run).exit_code == 0
    assert {name: (run / name).read_bytes() for name in written} == written
    assert {path.name for path in run.iterdir()} == {
        "audit.json",
        "run.json",
        "metrics.jsonl",
        "report.html",
        "report.md",
    }


def test_an_audit_goes_before_an_evaluation_and_an_evaluation_before_nothing(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    assert audit_of(tmp_path).name == "evaluation.json"
    (tmp_path / "audit.json").write_text("{}")
    assert audit_of(tmp_path).name == "audit.json"

    (tmp_path / "empty").mkdir()
    result = report("--run", tmp_path / "empty")
    assert result.exit_code == 1
    assert "holds neither audit.json nor evaluation.json" in result.output


def test_out_names_both_files_and_what_is_no_report_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    out = tmp_path / "elsewhere" / "page.html"
    assert report("--run", run, "--out", out).exit_code == 0
    assert (out.is_file(), out.with_suffix(".md").is_file(), (run / "report.html").exists()) == (True, True, False)

    out.with_suffix(".md").write_text("# My notes\n")
    result = report("--run", run, "--out", out)
    assert result.exit_code == 1
    assert "page.md holds something that is not a report" in result.output
    assert out.with_suffix(".md").read_text() == "# My notes\n"

    assert report("--run", run, "--out", tmp_path / "page.md").exit_code == 2


def test_scores_of_other_weights_than_the_run_trained_are_refused(tmp_path: Path) -> None:
    audit = rich_audit()
    audit["run"]["inputs"]["student"] = STUDENT_SHA256.replace("5", "6")
    run = make_run(tmp_path / "run", audit)

    result = report("--run", run)
    assert result.exit_code == 1
    assert "is about other weights than" in result.output
    assert not (run / "report.html").exists()


def test_a_run_that_was_asked_other_questions_is_refused(tmp_path: Path) -> None:
    other = json.loads(json.dumps(rich_audit()).replace("capital of Peru", "seat of government of Peru"))
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "other", other)]

    result = report("--run", runs[0], "--run", runs[1])
    assert result.exit_code == 1
    assert re.search(
        r"other was asked other questions on forget: only one of the two has '.* of Peru\?'", result.output
    )


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"No browser was found ({', '.join(BROWSERS)}). Install Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=BROWSER_OPTIONS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on an audit with every part, in which a model says what would harm a careless page."""
    audit = json.loads(json.dumps(rich_audit()).replace("It is a country.", json.dumps(HOSTILE)[1:-1]))
    audit["first_tokens"][0]["tokens"][0]["token"] = HOSTILE
    audit["not_measured"] |= {HOSTILE: HOSTILE}
    run = make_run(tmp_path_factory.mktemp("report") / "run", audit)
    result = report("--run", run)
    assert result.exit_code == 0, result.output
    return run / "report.html"


def opened(browser: "Browser", file: Path, *, width: int = 1280, **options: Any) -> "tuple[Page, list[str]]":
    """The page, and everything that it asked for or complained of."""
    page = browser.new_context(viewport={"width": width, "height": 800}, **options).new_page()
    noted: list[str] = []
    page.on("request", lambda request: noted.append(f"request {request.url}"))
    page.on("console", lambda message: noted.append(f"console {message.text}"))
    page.on("pageerror", lambda error: noted.append(f"error {error}"))
    page.goto(file.as_uri())
    return page, noted


@pytest.mark.slow
def test_the_page_asks_for_nothing_complains_of_nothing_and_runs_nothing_foreign(
    browser: "Browser", page_file: Path
) -> None:
    page, noted = opened(browser, page_file)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    page.wait_for_timeout(200)

    assert noted == [f"request {page_file.as_uri()}"]
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert "</script></bdi><script>window.hacked = 1</script>" in page.locator("#answers").inner_text()
    # Even markup that came through would not run.
    page.evaluate("""() => {
      const script = document.createElement('script');
      script.textContent = 'window.hacked = 1';
      document.body.append(script);
      document.body.insertAdjacentHTML('beforeend', '<p style="color: red" onclick="window.hacked = 1">x</p>');
      document.body.lastElementChild.click();
    }""")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("getComputedStyle(document.body.lastElementChild).color") != "rgb(255, 0, 0)"


@pytest.mark.slow
def test_landmarks_headings_tables_and_pictures_are_there_for_every_reader(browser: "Browser", page_file: Path) -> None:
    page, _ = opened(browser, page_file)

    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert page.locator(landmark).count() == 1, landmark
    levels = page.evaluate("Array.from(document.querySelectorAll('h1,h2,h3,h4'), (each) => +each.tagName[1])")
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    targets = page.evaluate("Array.from(document.querySelectorAll('nav a'), (each) => each.hash)")
    assert len(targets) == 19
    assert all(page.locator(target).count() == 1 for target in targets)

    tables = page.locator("table")
    assert tables.count() >= 17
    assert page.locator("table > caption").count() == tables.count()
    assert page.locator("thead th:not([scope=col]), tbody th:not([scope=row])").count() == 0
    assert page.locator("tbody tr > :first-child:not(th)").count() == 0
    assert page.locator("div.scroll[tabindex='0'][role=region][aria-labelledby] > table").count() == tables.count()

    assert page.locator("figure").count() == 12
    assert page.locator("figure:not(:has(table))").count() == 0
    pictures = page.locator("figure svg[role=img]")
    assert pictures.count() == 18
    for picture in pictures.all():
        assert picture.get_attribute("aria-label")
        assert picture.locator("text").count() >= 4
        box = picture.bounding_box()
        assert box
        assert box["width"] > 200
    assert (
        page.evaluate("(new Set(Array.from(document.querySelectorAll('[id]'), (each) => each.id))).size")
        == page.locator("[id]").count()
    )


@pytest.mark.slow
def test_the_filter_shows_what_is_chosen_and_says_how_many(browser: "Browser", page_file: Path) -> None:
    page, _ = opened(browser, page_file)
    shown = page.locator("#examples > li:visible")
    count = page.locator("#filter-count")
    assert (shown.count(), count.inner_text()) == (66, "66 of 66 shown")

    page.get_by_role("combobox", name="File", exact=True).select_option("retain")
    assert (shown.count(), count.inner_text()) == (6, "6 of 66 shown")
    page.get_by_role("combobox", name="File", exact=True).select_option("all")
    page.get_by_role("combobox", name="Attack", exact=True).select_option("few shot")
    assert shown.count() == page.locator("#examples > li[data-attack='few shot']:visible").count() == 6
    page.get_by_role("combobox", name="Attack", exact=True).select_option("all")
    page.get_by_role("searchbox", name="Text", exact=True).fill("SPOKEN in peru")
    assert shown.count() == 1
    assert "Which language is spoken in Peru?" in shown.inner_text()


@pytest.mark.slow
def test_without_scripts_the_answers_are_a_plain_list(browser: "Browser", page_file: Path) -> None:
    page, _ = opened(browser, page_file, java_script_enabled=False)

    assert not page.locator("#filter").is_visible()
    assert page.locator("#examples > li:visible").count() == 66


@pytest.mark.slow
def test_a_phone_scrolls_wide_tables_in_their_boxes_and_never_the_page(browser: "Browser", page_file: Path) -> None:
    page, _ = opened(browser, page_file, width=375)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")

    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate(
        "Array.from(document.querySelectorAll('.scroll')).some((each) => each.scrollWidth > each.clientWidth)"
    )
    smallest = page.evaluate("""Math.min(...Array.from(document.querySelectorAll('svg text'), (each) => {
      const drawn = each.ownerSVGElement;
      return each.getAttribute('font-size') * drawn.clientWidth / drawn.viewBox.baseVal.width;
    }))""")
    assert smallest >= 10


@pytest.mark.slow
def test_light_and_dark_are_different_and_both_can_be_read(browser: "Browser", page_file: Path) -> None:
    backgrounds = set()
    for scheme in ("light", "dark"):
        page, _ = opened(browser, page_file, color_scheme=scheme)

        def colour(selector: str, property_: str, page: "Page" = page) -> str:
            return str(page.locator(selector).first.evaluate(f"(each) => getComputedStyle(each).{property_}"))

        paper = colour("body", "backgroundColor")
        backgrounds.add(paper)
        for text in (
            "body",
            ".quiet",
            ".headline",
            "nav a",
            "summary",
            ".beside",
            ".outcome.good",
            ".outcome.bad",
            ".sign",
        ):
            assert page.evaluate(CONTRAST, [colour(text, "color"), paper]) >= READABLE, (scheme, text)
        raised = colour(".missing", "backgroundColor")
        assert page.evaluate(CONTRAST, [colour(".missing span", "color"), raised]) >= READABLE, scheme
        assert page.evaluate(CONTRAST, [colour("figure text.f-ink", "fill"), paper]) >= READABLE, scheme
        assert page.evaluate(CONTRAST, [colour("figure text.f-soft", "fill"), paper]) >= READABLE, scheme
        for role in ("base", "teacher", "student", "control"):
            assert page.evaluate(CONTRAST, [colour(f".s-{role}", "stroke"), paper]) >= SEEN, (scheme, role)
    assert len(backgrounds) == 2
