"""Where a path counts from: beside the settings file, or in the project for a preset; then in the working directory."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from workspace import Workspace, write_lines

from pipeline import settings as settings_module
from pipeline.settings import Settings, load_settings, preset_names
from stages.errors import DataError
from stages.settings import Absent
from stages.teacher.queries import load_queries

TEXT = """
[model]
path = "models/tiny"
[data]
forget = ["queries/forget.jsonl"]
retain = "queries/retain.jsonl"
prefix = "prefix.json"
[evaluation]
revealing = "asked/revealing.jsonl"
task_folder = "tasks"
[evaluation.questions]
forget = "asked/forget.jsonl"
[evaluation.validation]
forget = "asked/validation.jsonl"
[evaluation.unseen]
forget = "asked/unseen.jsonl"
[evaluation.translated]
forget = "asked/translated.jsonl"
[evaluation.choices]
general = "asked/choices.jsonl"
[finetune]
model = "models/tiny"
forget = "asked/taught.jsonl"
retain = ["asked/taught.jsonl"]
[relearning]
unrelated = "asked/unrelated.jsonl"
"""


def paths_of(settings: Settings) -> list[str]:
    asked, taught = settings.evaluation, settings.finetune
    tables = (asked.questions, asked.validation, asked.unseen, asked.translated, asked.choices)
    found = [*settings.data.forget, *settings.data.retain, settings.data.prefix, *taught.forget, *taught.retain]
    found += [path for table in tables for path in table.values()]
    return [*map(str, found), *map(str, (asked.revealing, asked.task_folder, settings.relearning.unrelated))]


@pytest.fixture
def topic(tmp_path: Path) -> Path:
    """A folder with a settings file and everything that it names."""
    folder = tmp_path / "topic"
    for part in ("queries", "asked", "models/tiny", "tasks"):
        (folder / part).mkdir(parents=True)
    write_lines(folder / "queries/forget.jsonl", [{"query": "one"}])
    write_lines(folder / "queries/retain.jsonl", [{"query": "two"}])
    (folder / "prefix.json").write_text('{"system": "x"}')
    for name in ("revealing", "forget", "validation", "unseen", "translated", "choices", "taught", "unrelated"):
        (folder / f"asked/{name}.jsonl").touch()
    (folder / "topic.toml").write_text(TEXT)
    return folder


def test_every_path_of_a_file_is_found_beside_it_from_any_directory(
    topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings("topic/topic.toml")

    assert len(paths_of(settings)) == 13
    assert all(path.startswith("topic/") and Path(path).exists() for path in paths_of(settings))
    assert (settings.model.path, settings.finetune.model) == ("topic/models/tiny", "topic/models/tiny")
    assert load_queries(settings.data.forget, settings.data.retain).forget == ["one"]

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = load_settings(str(topic / "topic.toml"))
    assert all(path.startswith(f"{topic}/") for path in [*paths_of(settings), settings.model.path])


def test_a_path_that_means_the_same_without_the_rule_stays_as_it_was_written(
    topic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(topic)
    settings = load_settings(str(topic / "topic.toml"))

    assert settings.data.forget == (Path("queries/forget.jsonl"),)
    assert settings.model.path == "models/tiny"
    monkeypatch.chdir(ROOT)
    presets = [load_settings(name) for name in preset_names()]
    assert not [path for preset in presets for path in paths_of(preset) if Path(path).is_absolute()]


def test_the_file_s_own_folder_comes_before_the_working_directory(
    topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(topic, other)
    (topic / "queries/retain.jsonl").unlink()
    shutil.rmtree(topic / "models")
    monkeypatch.chdir(other)
    settings = load_settings("../topic/topic.toml")

    assert settings.data.forget == (Path("../topic/queries/forget.jsonl"),)
    assert settings.data.retain == (Path("queries/retain.jsonl"),)
    assert settings.model.path == "models/tiny"


@pytest.mark.parametrize(
    "given",
    [
        ("data.forget=queries/forget.jsonl", "model.path=models/tiny"),
        ("data.forget='queries/forget.jsonl'", "model.path='models/tiny'"),
        ("data.forget=['queries/forget.jsonl']", "model.path=models/tiny"),
    ],
)
def test_a_path_behind_set_counts_from_the_working_directory(
    topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    more = (
        "evaluation.questions={forget = 'asked/forget.jsonl'}",
        "evaluation.validation.forget=asked/validation.jsonl",
    )
    settings = load_settings(str(topic / "topic.toml"), (*given, *more))

    assert settings.data.forget == (Path("queries/forget.jsonl"),)
    assert settings.model.path == "models/tiny"
    assert settings.evaluation.questions == {"forget": Path("asked/forget.jsonl")}
    assert settings.evaluation.validation == {"forget": Path("asked/validation.jsonl")}
    assert settings.data.prefix == topic / "prefix.json"


def test_a_hub_name_is_left_alone_where_there_is_no_such_folder(topic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(topic.parent)
    shutil.rmtree(topic / "models")

    assert load_settings("topic/topic.toml").model.path == "models/tiny"


def test_a_file_that_is_nowhere_is_named_with_both_places(
    topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (topic / "queries/forget.jsonl").unlink()
    settings = load_settings("topic/topic.toml")

    with pytest.raises(DataError) as error:
        load_queries(settings.data.forget, settings.data.retain)

    assert error.value.found == "The query file queries/forget.jsonl cannot be read (No such file or directory)."
    assert f"It was looked for in {topic} and in {tmp_path}." in error.value.next_step
    assert "data.forget=" in error.value.next_step


def test_a_preset_finds_the_project_s_files_and_model_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "models/SmolLM2-135M-Instruct").mkdir(parents=True)
    (project / "data").symlink_to(ROOT / "data")
    monkeypatch.setattr(settings_module, "project_folder", lambda: project)
    monkeypatch.chdir(tmp_path)
    settings = load_settings("capitals")

    assert settings.model.path == str(project / "models/SmolLM2-135M-Instruct")
    assert load_settings("fictitious").finetune.model == str(project / "models/SmolLM2-135M-Instruct")
    assert all(path.startswith(f"{project}/data/") for path in paths_of(settings) if path != "None")
    assert len(load_queries(settings.data.forget, settings.data.retain).forget) > 50


def test_a_preset_of_an_installed_package_says_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages"
    for package in ("pipeline", "stages"):
        shutil.copytree(ROOT / package, installed / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "here").mkdir()
    command = (sys.executable, "-m", "pipeline", "teacher-cache", "--config", "capitals", "--out", "cache")
    done = subprocess.run(
        command, cwd=tmp_path / "here", env={"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        "Error: The query file data/capitals/forget.jsonl cannot be read (No such file or directory)."
    )
    assert "The data files of a preset are part of DUET's repository, not of the installed package" in done.stderr
    assert "Clone the repository and give the command there, or name files of your own" in done.stderr
    assert not list((tmp_path / "here").iterdir())


def test_a_capture_runs_from_another_directory(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    text = workspace.settings.read_text().replace(f"{workspace.folder}/", "")
    workspace.settings.write_text(text)
    (workspace.folder / "elsewhere").mkdir()
    monkeypatch.chdir(workspace.folder / "elsewhere")

    assert 'forget = "forget.jsonl"' in text
    assert workspace.teacher_cache().exit_code == 0
    assert workspace.distill().exit_code == 0


def test_an_absent_path_is_a_path_like_any_other_also_in_another_process(topic: Path) -> None:
    (topic / "prefix.json").unlink()
    path = load_settings(str(topic / "topic.toml")).data.prefix
    assert isinstance(path, Absent)

    again = pickle.loads(pickle.dumps(path))

    assert path == again == Path("prefix.json")
    assert hash(path) == hash(Path("prefix.json"))
    assert again.looked_for == path.looked_for != ""


def test_a_tilde_is_the_home_folder_in_a_file_and_with_set(
    topic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (topic / "topic.toml").write_text(TEXT.replace('path = "models/tiny"', 'path = "~/topic/models/tiny"'))

    settings = load_settings(str(topic / "topic.toml"), ["data.forget=~/topic/queries/forget.jsonl"])

    assert settings.model.path == str(topic / "models/tiny")
    assert settings.data.forget == (topic / "queries/forget.jsonl",)
