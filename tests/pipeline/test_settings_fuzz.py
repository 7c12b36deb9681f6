"""Whatever a setting is given, the answer is a refusal in one message or a run: never a traceback, never silence.

Every setting meets every value below, from a TOML file and behind `--set`. What loads is run, with the tiny model, by a command
that uses the setting: a sample of it in every test run, more of it among the slow tests.
"""

import random
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from workspace import Workspace, make_workspace, write_lines

from pipeline import evaluation_file, hearing, models
from pipeline.relearning import diets, relearn
from pipeline.settings import Settings, load_settings
from stages.errors import DuetError, SettingsError
from stages.toml_text import toml_text

# As they stand in a TOML file. Behind --set the same text is given; there what is no TOML is a bare word.
VALUES = {
    "inf": "inf",
    "minus inf": "-inf",
    "nan": "nan",
    "zero": "0",
    "minus one": "-1",
    "one": "1",
    "two": "2",
    "three": "3",
    "many": "65536",
    "most": "2147483647",
    "too many": "2147483648",
    "huge": "1" + "0" * 30,
    "huge in hex": "0x" + "f" * 5000,
    "thousands of digits": "1" * 5000,
    "denormal": "5e-324",
    "tiny": "1e-300",
    "half": "0.5",
    "whole float": "4.0",
    "greatest float": "1e308",
    "more than a float": "1e999",
    "true": "true",
    "false": "false",
    "empty": '""',
    "space": '" "',
    "unseen": '"\\u200b\\u3164"',
    "word": '"word"',
    "lora": '"lora"',
    "plain": '"plain"',
    "letters": '"letters"',
    "bfloat16": '"bfloat16"',
    "float16": '"float16"',
    "roles": '["base", "teacher"]',
    "attacks": '["reverse", "few_shot"]',
    "steps": "[0, 1, 3]",
    "number as text": '"1"',
    "padded number": '" 1 "',
    "underscored number": '"1_0"',
    "fullwidth digit": '"１"',
    "none": '"None"',
    "null": '"null"',
    "NUL": '"a\\u0000b"',
    "escape": '"a\\u001bb"',
    "emoji": '"😀"',
    "long": f'"{"x" * 5000}"',
    "long path": f'"{"x/" * 5000}"',
    "nowhere": '"no/such/file"',
    "folder": '"/"',
    "list": "[]",
    "ones": "[1]",
    "texts": '["1", ""]',
    "mixed": '[1, "a", true, 1.5, []]',
    "nested": "[" * 60 + "]" * 60,
    "deep": "[" * 3000 + "]" * 3000,
    "table": "{}",
    "table of one": "{a = 1}",
    "table of text": '{forget = "no/such/file"}',
    "table of blanks": '{"" = " "}',
    "range": "{low = 0, high = inf}",
    "date": "1979-05-27",
    "moment": "1979-05-27T07:32:00Z",
    "date as text": '"1979-05-27"',
    "table of numbers": "{a = 1, b = inf}",
}
SETTINGS = [
    f"{section}.{key}"
    for section, each in Settings.model_fields.items()
    for key in each.annotation.model_fields  # type: ignore[union-attr]
]
CASES = [(setting, value) for setting in SETTINGS for value in VALUES]
SEED = 7
SAMPLE, SLOW_SAMPLE = 16, 90


@pytest.fixture(scope="module")
def topic(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A workspace in which every command can run, with a cache, and a model to be evaluated."""
    folder = tmp_path_factory.mktemp("fuzz")
    workspace = make_workspace(folder, tiny_model)
    text = workspace.settings.read_text()
    taught = [{"question": f"Who founded {town}?", "answer": "Ida"} for town in ("Bram", "Tolm", "Vesk", "Orra")]
    write_lines(folder / "taught.jsonl", taught)
    workspace.settings.write_text(
        f"""{text}
[finetune]
model = "{tiny_model}"
retain = ["{folder}/taught.jsonl"]
batch_rows = 2
epochs = 1
zero_stage = 0
[relearning]
batch_rows = 1
steps = [0, 1]
unrelated = "{folder}/taught.jsonl"
"""
    )
    assert workspace.teacher_cache().exit_code == 0
    return workspace


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate in this process: starting one for each case would take hours."""
    for module in (evaluation_file, hearing, models):
        monkeypatch.setattr(module, "in_own_process", lambda function, *arguments: function(*arguments))


def with_value(workspace: Workspace, setting: str, literal: str, into: Path) -> Path:
    """The workspace's settings as a file of their own, with this value for one of them."""
    values: dict[str, Any] = tomllib.loads(workspace.settings.read_text())
    section, key = setting.split(".")
    values.setdefault(section, {}).pop(key, None)
    text = toml_text(values).replace(f"[{section}]\n", f"[{section}]\n{key} = {literal}\n", 1)
    into.write_text(text, encoding="utf-8")
    return into


def assert_refused_or_run(result: Result, case: object) -> None:
    """No traceback; and of a refusal one message that says something."""
    assert result.exception is None or isinstance(result.exception, SystemExit), (case, result.exception)
    assert result.exit_code in (0, 1, 2), (case, result.exit_code)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (result.exit_code != 0), (case, result.stderr)
    assert all(20 < len(line) < 600 for line in errors), (case, errors)
    assert "Traceback" not in result.output, case


def loads(workspace: Workspace, setting: str, value: str) -> bool:
    try:
        load_settings(str(workspace.settings), (f"{setting}={VALUES[value]}",))
    except SettingsError:
        return False
    return True


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_value_is_loaded_or_refused_alike_from_a_file_and_behind_set(
    topic: Workspace, tmp_path: Path, setting: str
) -> None:
    for value, literal in VALUES.items():
        path = with_value(topic, setting, literal, tmp_path / "settings.toml")
        from_file = topic.duet("settings", "--config", path)
        behind_set = topic.duet("settings", "--config", topic.settings, "--set", f"{setting}={literal}")
        for result in (from_file, behind_set):
            assert_refused_or_run(result, (setting, value))
            assert result.exit_code in (0, 2), (setting, value)
        if value != "thousands of digits":  # no TOML; behind --set a bare word
            assert from_file.exit_code == behind_set.exit_code, (setting, value)
            assert from_file.stdout == behind_set.stdout, (setting, value)
        if from_file.exit_code and value not in ("thousands of digits", "deep"):
            section, key = setting.split(".")
            assert re.search(rf"{section}\b.*\b{key}\b|: {section}: ", from_file.stderr), (setting, from_file.stderr)


def commands(workspace: Workspace, setting: str, out: Path) -> Iterator[tuple[object, ...]]:
    """The commands that this setting has to do with."""
    config = ("--config", workspace.settings)
    section, key = setting.split(".")
    if section in ("model", "data", "teacher"):
        yield ("teacher-cache", *config, "--out", out / "cache")
    if section == "student":
        yield ("distill", *config, "--cache", workspace.cache, "--out", out / "run")
    if section == "finetune":
        yield ("finetune", *config, "--out", out / "run")
    if section == "evaluation" or key in ("template", "dtype"):
        validation = ("--validation",) if key == "validation" else ()
        yield ("evaluate", *config, *validation, "--model", workspace.model, "--out", out / "evaluation.json")


def relearns(workspace: Workspace, given: str) -> bool:
    """What an audit does under [relearning], and nothing else of it; whether it was done or refused."""
    settings = load_settings(str(workspace.settings), (given,))
    try:
        for diet in diets(settings, "forget"):
            found = relearn(settings, workspace.model, "student", diet, "forget")
            assert found.scores["step"].unique().sort().to_list() == list(settings.relearning.steps)
    except DuetError as error:
        assert error.found
        return False
    return True


def run_all(workspace: Workspace, cases: list[tuple[str, str]], out: Path) -> int:
    """Run what loads among the cases; returns how many commands ended well."""
    well = 0
    for setting, value in cases:
        if setting.startswith("relearning."):
            well += relearns(workspace, f"{setting}={VALUES[value]}")
        for command in commands(workspace, setting, out):
            result = workspace.duet(*command, "--set", f"{setting}={VALUES[value]}")
            assert_refused_or_run(result, (setting, value, command[0]))
            well += result.exit_code == 0
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
    return well


def sampled(workspace: Workspace, count: int, seed: int) -> list[tuple[str, str]]:
    """Cases that load, drawn at random; those of sections that no command of this test runs are not among them."""
    drawn = random.Random(seed).sample(CASES, len(CASES))
    loadable = ((setting, value) for setting, value in drawn if not setting.startswith("sweep."))
    found = []
    for setting, value in loadable:
        if loads(workspace, setting, value):
            found.append((setting, value))
        if len(found) == count:
            break
    return found


def test_what_loads_is_refused_by_its_command_or_runs(topic: Workspace, tmp_path: Path) -> None:
    cases = sampled(topic, SAMPLE, SEED)

    assert len(cases) == SAMPLE
    assert run_all(topic, cases, tmp_path / "out") > SAMPLE // 3


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_more_of_what_loads_is_refused_by_its_command_or_runs(topic: Workspace, tmp_path: Path, part: int) -> None:
    cases = sampled(topic, SLOW_SAMPLE, SEED + 1)[part::3]

    assert run_all(topic, cases, tmp_path / "out") > len(cases) // 3
