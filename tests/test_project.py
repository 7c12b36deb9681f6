"""The repository about itself: which way imports run, what is documented, and what the data holds."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import ROOT

from pipeline.cli import duet
from pipeline.settings import load_settings, preset_names
from stages.evaluation.questions import load_questions
from stages.teacher.queries import load_queries

# What each room may import of the others. Nothing imports pipeline but pipeline.
MAY_IMPORT = {
    "stages": set(),
    "stages.logit_cache": {"stages"},
    "stages.language_model": {"stages", "stages.logit_cache"},
    "stages.teacher": {"stages", "stages.logit_cache", "stages.language_model"},
    "stages.student": {"stages", "stages.logit_cache", "stages.language_model"},
    "stages.evaluation": {"stages", "stages.logit_cache", "stages.language_model"},
}
DOORS = {
    "vllm": "stages/language_model/vllm_engine.py",
    "deepspeed": "stages/student/engine.py",
    "peft": "stages/student/lora.py",
    "torchao": "stages/evaluation/quantisation.py",
    "lm_eval": "stages/evaluation/harness.py",
    "datasets": "stages/evaluation/harness.py",
}
MOST_BYTES = 1_000_000


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("pipeline", "stages"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if f"{parts[0]}.{'.'.join(parts[1:2])}" in MAY_IMPORT else parts[0]


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_imports_run_one_way() -> None:
    wrong = []
    for path, tree in modules():
        own = room(".".join(path.with_suffix("").parts))
        if own == "pipeline":
            continue
        for module in imports(tree):
            if module.split(".")[0] in ("pipeline", "stages"):
                target = room(module)
                if target != own and target not in MAY_IMPORT[own]:
                    wrong.append(f"{path} imports {module}")
    assert wrong == []


@pytest.mark.parametrize(("package", "door"), DOORS.items())
def test_a_heavy_package_has_one_door(package: str, door: str) -> None:
    users = {str(path) for path, tree in modules() if any(name.split(".")[0] == package for name in imports(tree))}

    assert users == {door}


def test_the_command_line_loads_no_heavy_package() -> None:
    heavy = ("torch", "vllm", "deepspeed", "transformers", "lm_eval", "datasets", "matplotlib", "jinja2")
    code = f"import sys, pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


@pytest.mark.parametrize(("name", "command"), list(commands(duet)), ids=str)
def test_every_command_has_help_an_example_and_a_line_in_the_readme(name: str, command: click.Command) -> None:
    assert command.help
    assert name == "settings" or "Example" in command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parent, _, last = name.rpartition(" ")
    assert f"`duet {name}`" in readme or (parent and re.search(rf"`duet {parent} [^`]*\b{last}\b[^`]*`", readme))


def test_every_make_target_is_explained_and_none_is_dead() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    explained = dict(re.findall(r"^([a-z-]+):[^#\n]*## (.+)$", makefile, re.MULTILINE))
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert phony == set(explained)
    assert all(f"make {target} " in shown for target in phony)
    for target in phony:
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert dry.returncode == 0, dry.stderr
        assert dry.stdout.strip()


def test_make_clean_leaves_outputs_alone() -> None:
    dry = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert not re.search(r"\b(cache|runs|models|data)/", dry.replace(".mypy_cache", "").replace("__pycache__", ""))


def test_every_file_that_the_readme_links_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_no_file_is_large_or_names_a_machine() -> None:
    for name in tracked_files():
        content = (ROOT / name).read_bytes()
        assert len(content) <= MOST_BYTES, name
        # Assembled, so that this file does not find itself.
        for path in (b"/" + b"work/", b"/" + b"home/", b"/" + b"root/"):
            assert path not in content, f"{name} names {path.decode()}"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_its_committed_files_are_sound(name: str) -> None:
    settings = load_settings(name)

    if not name.startswith("wmdp"):
        load_queries(settings.data.forget, settings.data.retain)
    for path in (*settings.evaluation.questions.values(), *settings.evaluation.validation.values()):
        if path.exists() or not name.startswith("wmdp"):
            load_questions(path)


@pytest.mark.parametrize("topic", sorted(path.name for path in (ROOT / "data").iterdir() if path.is_dir()))
def test_every_topic_says_where_it_comes_from(topic: str) -> None:
    text = (ROOT / "data" / topic / "README.md").read_text(encoding="utf-8").lower()

    assert all(word in text for word in ("licence", "source"))


def test_no_question_on_dangerous_knowledge_is_committed() -> None:
    for topic in ("wmdp_bio", "wmdp_cyber"):
        assert not [
            name for name in tracked_files() if name.startswith(f"data/{topic}/") and "forget" in Path(name).stem
        ]


def questions_of(folder: str) -> dict[str, list[str]]:
    files = sorted((ROOT / "data/capitals" / folder).glob("*.jsonl"))
    return {file.stem: [question.question for question in load_questions(file)] for file in files}


def countries_of(path: Path) -> set[str]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {record["country"] for record in records if "country" in record}


def test_the_capitals_topic_is_as_large_as_it_says() -> None:
    settings = load_settings("capitals")
    queries = load_queries(settings.data.forget, settings.data.retain)
    held_out = questions_of("eval")

    assert len(queries.forget) >= 90
    assert len(queries.retain) >= 150
    for name, least in (("forget", 80), ("forget_paraphrase", 80), ("neighbours", 60), ("retain", 80)):
        assert len(held_out[name]) >= least, name


def test_training_validation_and_held_out_share_no_question_and_no_country() -> None:
    settings = load_settings("capitals")
    queries = load_queries(settings.data.forget, settings.data.retain)
    parts = {
        "training": set(queries.forget + queries.retain),
        "validation": {question for asked in questions_of("validation").values() for question in asked},
        "held out": {question for asked in questions_of("eval").values() for question in asked},
    }
    names = list(parts)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            assert parts[one] & parts[other] == set()
    countries = {
        folder: set().union(*(countries_of(path) for path in (ROOT / "data/capitals" / folder).glob("*.jsonl")))
        for folder in ("eval", "validation")
    }
    assert countries["eval"] & countries["validation"] == set()
    for folder in countries.values():
        assert folder
        for country in folder:
            asked = [query for query in queries.forget if re.search(rf"\b{re.escape(country)}\b(?!-)", query)]
            assert asked == [], country
