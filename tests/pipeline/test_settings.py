"""Settings: presets, overrides, and what a mistake is told."""

from pathlib import Path

import pytest
from workspace import Workspace

from pipeline.settings import Range, load_settings
from stages.errors import SettingsError


def load(workspace: Workspace, *overrides: str):  # type: ignore[no-untyped-def]
    return load_settings(str(workspace.settings), overrides)


def test_an_override_reads_toml_and_takes_the_rest_as_text(workspace: Workspace) -> None:
    settings = load(
        workspace,
        "student.epochs=4",
        "student.learning_rate=1e-6",
        "teacher.prefix_on_retain=false",
        "data.licence=CC BY 4.0",
        "data.retain=['a.jsonl', 'b.jsonl']",
        "student.epochs=5",  # the last one counts
    )

    assert settings.student.epochs == 5
    assert settings.student.learning_rate == 1e-6
    assert settings.teacher.prefix_on_retain is False
    assert settings.data.licence == "CC BY 4.0"
    assert settings.data.retain == (Path("a.jsonl"), Path("b.jsonl"))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("student.lr=1", ["sets student.lr, and there is no such setting", "learning_rate"]),
        ("stduent.epochs=1", ["sets stduent", "student"]),
        ("student.epochs=many", ["student.epochs", "(given: 'many')"]),
        ("student.epochs=0", ["student.epochs", "greater than or equal to 1", "(given: 0)"]),
        ("student.learning_rate=nan", ["student.learning_rate"]),
        ("student.zero_stage=7", ["student.zero_stage", "0, 1, 2 or 3"]),
        ("student.offload=all", ["needs zero_stage"]),
        ("model.engine=llama", ["model.engine", "'vllm'"]),
        ("evaluation.forget_files=['nowhere']", ["forget_files names 'nowhere'"]),
        ("evaluation.attacks=['bribe']", ["evaluation.attacks.0", "'reverse'"]),
        ("evaluation.attacks=['reverse', 'reverse']", ["attacks names one of them twice"]),
        ("sweep.axes.student.learning_rate=3", ["sweep.axes.student.learning_rate"]),
        ("sweep.axes.student.learning_rate={low=2, high=1}", ["low is 2, above high"]),
        ("sweep.axes.student.learning_rate={low=0, high=1, log=true}", ["needs more than 0"]),
        ("sweep.axes.student.learning_rate={lo=1, high=2}", ["lo", "low, high, log"]),
        ("sweep.axes.model.dtype=['float32']", ["sweep.axes.model"]),
        ("epochs=3", ["is not section.key=value"]),
        ("student.epochs", ["is not section.key=value"]),
        ("student.epochs.more=1", ["epochs is a value, not a section"]),
    ],
)
def test_a_mistake_is_named_with_its_place(workspace: Workspace, override: str, parts: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load(workspace, override)

    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[student]\nepochs = ", "is not TOML"),
        ("", "data: Field required"),
        ("[data]\nforget = []\nretain = ['r']\nprefix = 'p'", "data.forget"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=message):
        load_settings(str(path))


def test_a_name_that_is_neither_file_nor_preset_lists_the_presets() -> None:
    with pytest.raises(SettingsError, match="capitals"):
        load_settings("capitols")


def test_a_range_is_an_axis_of_a_search_only(workspace: Workspace) -> None:
    axis = "sweep.axes.student.learning_rate={low=1e-6, high=1e-4, log=true}"

    assert load(workspace, axis, "sweep.sampler=tpe").sweep.axes["student"]["learning_rate"] == Range(
        low=1e-6, high=1e-4, log=True
    )
    with pytest.raises(SettingsError, match="a grid needs a list"):
        load(workspace, axis)


def test_validation_files_take_the_place_of_the_held_out_ones(workspace: Workspace) -> None:
    settings = load(workspace, f"evaluation.validation.forget={workspace.folder}/other.jsonl")

    assert settings.on_validation().evaluation.questions["forget"] == workspace.folder / "other.jsonl"
    assert settings.evaluation.questions["forget"] == workspace.folder / "questions-forget.jsonl"
    with pytest.raises(SettingsError, match="no validation files"):
        load(workspace, "evaluation.validation={}").on_validation()
