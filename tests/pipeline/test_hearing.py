"""Multiple choice in the evaluation: tasks of lm-eval beside a file of one's own, and a hub that cannot be reached."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workspace import Workspace

from pipeline import audit, evaluation_file, models
from pipeline.audit import audited
from pipeline.evaluation_file import not_asked, summarise
from pipeline.hearing import hear, nothing_heard
from pipeline.models import base_inputs
from pipeline.settings import Settings, load_settings
from stages.errors import DataError


def settings_of(workspace: Workspace, task_folder: Path, *tasks: str) -> Settings:
    named = ", ".join(f'"{task}"' for task in tasks)
    return load_settings(
        str(workspace.settings), [f"evaluation.tasks=[{named}]", f'evaluation.task_folder="{task_folder}"']
    )


# Of the tiny topic, every question.
ATTACKED = {"forget": (0, 1)}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No process is started, so that lm-eval's index is read once; and no hub is reached. The functions that were run."""
    called: list[str] = []

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        called.append(function.__name__)
        return function(*arguments)

    for module in (audit, evaluation_file, models):
        monkeypatch.setattr(module, "in_own_process", run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return called


@pytest.mark.slow
def test_mmlu_by_name_gives_its_tasks_and_its_mean_and_fills_performance_shift(
    workspace: Workspace, task_folder: Path
) -> None:
    settings = settings_of(workspace, task_folder, "mmlu").with_evaluation(first_tokens=0)
    heard = hear(settings, workspace.model, ("base", "teacher"), nothing_heard(), ATTACKED)
    heard = hear(settings, workspace.model, ("student",), heard, ATTACKED)
    found = summarise(heard, settings)

    counts = {(each["model"], each["file"]): each["n"] for each in found["choices"]}
    files = {"general": 4, "mmlu": 3, "mmlu_stem": 3, "mmlu_anatomy": 1, "mmlu_astronomy": 2}
    assert counts == {(model, file): n for model in ("base", "student") for file, n in files.items()}
    # The student is the base model here.
    assert found["performance_shift"]["parts"]["mmlu"] == 0
    assert list(found["performance_shift"]["stand_ins"]) == ["general"]
    assert "multiple choice by likelihood" not in not_asked(settings)


@pytest.mark.slow
def test_a_hub_out_of_reach_is_said_before_any_model_is_loaded(
    workspace: Workspace, task_folder: Path, in_this_process: list[str]
) -> None:
    result = workspace.duet(
        "evaluate", "--config", workspace.settings, "--model", workspace.model, "--out", workspace.evaluation,
        "--set", 'evaluation.tasks=["away"]', "--set", f'evaluation.task_folder="{task_folder}"',
    )  # fmt: skip

    assert result.exit_code == DataError.exit_code
    assert "The questions of the task away cannot be had" in result.output
    assert "--set evaluation.choices.away=FILE" in result.output and "HF_HUB_OFFLINE" in result.output
    assert in_this_process == ["task_digests"]


@pytest.mark.slow
def test_an_audit_leaves_out_the_task_that_cannot_be_had_and_says_why(
    workspace: Workspace, task_folder: Path, in_this_process: list[str]
) -> None:
    settings, reasons = audited(settings_of(workspace, task_folder, "mmlu", "away"))

    assert settings.evaluation.tasks == ("mmlu",)
    assert "The questions of the task away cannot be had" in reasons["multiple choice away"]
    assert "multiple choice mmlu" not in reasons
    # Answers to other questions could not be taken over from an earlier evaluation.
    before = base_inputs(settings, workspace.model)
    assert before == base_inputs(settings, workspace.model)
    (task_folder / "mmlu_anatomy.yaml").rename(kept := task_folder / "kept")
    text = kept.read_text()
    try:
        (task_folder / "mmlu_anatomy.yaml").write_text(text.replace("about anatomy", "about the body"))
        assert before != base_inputs(settings, workspace.model)
    finally:
        kept.replace(task_folder / "mmlu_anatomy.yaml")
