"""The one door to the terminal: foreign text passes it as text, and nothing passes beside it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT, write_cache

from pipeline.cli import duet
from stages.logit_cache.manifest import MANIFEST

DOOR = "pipeline/console.py"
WRITERS = {
    "print",
    "input",
    *(f"{c}{n}" for c in ("", "click.") for n in ("echo", "secho", "prompt", "confirm", "style")),
}
STREAMS = {f"sys.{name}" for name in ("stdout", "stderr", "__stdout__", "__stderr__")}
FOREIGN = "\x1b]52;c;cm0=\x07\x1b[2J\x9b1m[red]bold[/red] [link=http://x]y[/link] :smile: \u202edesrever\x7f"


def test_no_module_but_the_console_writes_to_the_terminal() -> None:
    wrong = []
    for path in sorted(each for folder in ("pipeline", "stages") for each in (ROOT / folder).rglob("*.py")):
        if str(path.relative_to(ROOT)) == DOOR:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            is_writer = name in WRITERS or name.startswith("traceback.print_")
            is_stream = isinstance(node, ast.Attribute) and ast.unparse(node) in STREAMS
            is_rich = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich"
            is_rich = is_rich or (isinstance(node, ast.Import) and any(a.name.startswith("rich") for a in node.names))
            if is_writer or is_stream or is_rich:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


@pytest.fixture
def hostile_cache(tmp_path: Path) -> Path:
    """A cache whose manifest holds escapes wherever it holds text that changes no row."""
    cache = tmp_path / "cache"
    write_cache(cache)
    path = cache / MANIFEST
    raw = json.loads(path.read_bytes())
    raw["provenance"].update(model=FOREIGN, engine=FOREIGN, hardware=FOREIGN, command=[FOREIGN], started_at=FOREIGN)
    raw.update(licence=FOREIGN, sensitivity=FOREIGN, prefix={"text": FOREIGN, "token_ids": [1]})
    path.chmod(0o644)
    path.write_text(json.dumps(raw))
    return cache


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, check=False, env={**os.environ, "COLUMNS": "400", **environment}
    )


@pytest.mark.parametrize("option", [[], ["--json"]], ids=["people", "programs"])
def test_show_prints_no_escape_and_reads_no_markup_of_a_manifest(hostile_cache: Path, option: list[str]) -> None:
    shown = run("cache", "show", hostile_cache, *option)

    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode()
    assert not {each for each in text if each != "\n" and not each.isprintable()}
    assert "[red]bold[/red]" in text
    assert ":smile:" in text
    if option:
        assert json.loads(text)["licence"] == FOREIGN
    else:
        assert "\\x1b]52;c;cm0=\\x07\\x1b[2J\\x9b1m" in text
        assert "\\u202edesrever\\x7f" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_is_no_utf_8_is_written_without_a_crash(hostile_cache: Path, encoding: str) -> None:
    people = run("cache", "show", hostile_cache, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    programs = run("cache", "show", hostile_cache, "--json", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    usage = run("--help", PYTHONIOENCODING=encoding, PYTHONUTF8="0")

    assert (people.returncode, programs.returncode, usage.returncode) == (0, 0, 0), people.stderr
    assert json.loads(programs.stdout.decode("ascii"))["licence"] == FOREIGN


def test_names_of_files_in_errors_are_made_visible(tmp_path: Path) -> None:
    for arguments in (("cache", "show", tmp_path / FOREIGN), (FOREIGN,), ("settings", "--config", f"{FOREIGN}.toml")):
        told = run(*arguments)

        assert told.returncode == 2
        assert b"\x1b" not in told.stderr + told.stdout
        assert "\x9b" not in told.stderr.decode()


def test_names_that_are_no_utf_8_are_shown_and_crash_nothing(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()

    told = run("cache", "show", tmp_path / os.fsdecode(b"caf\xe9"))

    assert told.returncode == 1
    assert b"caf\\udce9 holds no manifest.json" in told.stderr


def test_what_a_library_logs_is_made_visible() -> None:
    code = (
        "import logging, warnings; from pipeline.console import open_terminal; open_terminal();"
        "logging.getLogger('lib').error('of %s', '\\x1b[2J'); warnings.warn('\\x1b]0;t'); raise ValueError('\\x1b[1m')"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).stderr

    assert b"\x1b" not in told
    assert b"of \\x1b[2J" in told
    assert b"\\x1b]0;t" in told
    assert b"ValueError: \\x1b[1m" in told


@pytest.mark.parametrize("name", ["a" * 5000, "", "/", "a\0b"])
def test_a_teacher_that_is_named_to_break_it_costs_no_more_than_the_names_of_tokens(
    hostile_cache: Path, name: str
) -> None:
    raw = json.loads((hostile_cache / MANIFEST).read_bytes())
    raw["provenance"]["model"] = name
    (hostile_cache / MANIFEST).write_text(json.dumps(raw))

    for arguments in (("show", hostile_cache, "--query", "query 3"), ("verify", hostile_cache)):
        told = CliRunner().invoke(duet, ["cache", *map(str, arguments)])
        assert told.exit_code == 0, told.output
