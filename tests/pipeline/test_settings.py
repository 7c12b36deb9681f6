"""Settings: presets, overrides, and what a mistake is told."""

import gzip
from datetime import date
from pathlib import Path

import pytest
from workspace import Workspace

from pipeline.settings import Range, load_settings, preset_names
from stages.errors import SettingsError
from stages.toml_text import toml_text


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
    ("override", "fault"),
    [
        ("student.learning_rate=inf", "student.learning_rate: Input should be a finite number (given: inf)."),
        ("finetune.weight_decay=nan", "finetune.weight_decay: Input should be a finite number (given: nan)."),
        ("relearning.max_grad_norm=-inf", "relearning.max_grad_norm: Input should be a finite number (given: -inf)."),
        ("student.seed=true", "student.seed: Input should be a valid integer (given: True)."),
        ("student.seed='1'", "student.seed: Input should be a valid integer (given: '1')."),
        ("student.seed=' 1 '", "student.seed: Input should be a valid integer (given: ' 1 ')."),
        ("student.seed='1_0'", "student.seed: Input should be a valid integer (given: '1_0')."),
        ("student.seed=１", "student.seed: Input should be a valid integer (given: '１')."),
        ("student.seed=4.0", "student.seed: Input should be a valid integer (given: 4.0)."),
        ("student.seed=2147483648", "student.seed: Whole numbers go up to 2147483647 (given: 2147483648)."),
        ("relearning.steps=[0, true]", "relearning.steps.1: Input should be a valid integer (given: True)."),
        (
            "relearning.steps=[0, 100001]",
            "relearning.steps.1: Input should be less than or equal to 100000 (given: 100001).",
        ),
        ("student.zero_stage=true", "student.zero_stage: Input should be a valid integer (given: True)."),
        ("student.zero_stage=1.0", "student.zero_stage: Input should be a valid integer (given: 1.0)."),
        ("student.learning_rate='0.1'", "student.learning_rate: Input should be a valid number (given: '0.1')."),
        ("student.learning_rate=true", "student.learning_rate: Input should be a valid number (given: True)."),
        ("teacher.prefix_on_retain=1", "teacher.prefix_on_retain: Input should be a valid boolean (given: 1)."),
        ("teacher.prefix_on_retain=yes", "teacher.prefix_on_retain: Input should be a valid boolean (given: 'yes')."),
        ("data.licence=2024", "data.licence: Input should be a valid string (given: 2024)."),
        ("data.prefix=", "data.prefix: The text is empty (given: '')."),
        ("data.prefix=3", "data.prefix: Input should be a path (given: 3)."),
        ("model.path=' '", "model.path: The text is empty (given: ' ')."),
        ("data.forget=['']", "data.forget: The text is empty (given: ['']"),
        ('data.forget="a\\u0000b"', "data.forget: The text holds the control character U+0000 (given: ['a\\x00b'])."),
        ("evaluation.questions={forget = ''}", "evaluation.questions.forget: The text is empty (given: '')."),
        ("student.processes=1000000", "student.processes: Input should be less than or equal to 256 (given: 1000000)."),
        ("model.gpus=65", "model.gpus: Input should be less than or equal to 64 (given: 65)."),
        ("relearning.epochs=2", "sets relearning.epochs, and there is no such setting."),
        ("relearning.checkpoint_minutes=1", "sets relearning.checkpoint_minutes, and there is no such setting."),
        ("student.lora_targets=['']", "student.lora_targets: The text is empty"),
        (
            "student.seed=0x" + "f" * 5000,
            "student.seed: Whole numbers go up to 2147483647 (given: too long to be shown).",
        ),
    ],
)
def test_nothing_is_taken_for_another_type_and_nothing_is_beyond_its_bounds(
    workspace: Workspace, override: str, fault: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(workspace, override)

    assert fault in error.value.found
    assert "\n" not in error.value.found


def test_a_whole_number_is_taken_for_a_float_and_a_bool_for_nothing_else(workspace: Workspace) -> None:
    settings = load(workspace, "student.huber_delta=2", "student.checkpoint_minutes=3", "student.seed=2147483647")

    assert settings.student.huber_delta == 2.0
    assert isinstance(settings.student.huber_delta, float)
    assert settings.student.seed == 2**31 - 1


@pytest.mark.parametrize(
    ("axis", "fault"),
    [
        ("student.epochs=[1, 'many']", "sweep.axes.student.epochs.1: Input should be a valid integer (given: 'many')."),
        (
            "student.epochs=[1, 0]",
            "sweep.axes.student.epochs.1: Input should be greater than or equal to 1 (given: 0).",
        ),
        ("student.epochs=[true]", "sweep.axes.student.epochs.0: Input should be a valid integer (given: True)."),
        ("student.seed=[2147483648]", "sweep.axes.student.seed.0: Whole numbers go up to 2147483647"),
        ("student.learning_rate=[1e-5, inf]", "sweep.axes.student.learning_rate.1: Input should be a finite number"),
        ("student.method=['lore']", "sweep.axes.student.method.0: Input should be 'full' or 'lora' (given: 'lore')."),
        ("student.lora_targets=['q_proj']", "sweep.axes.student.lora_targets.0: Input should be a valid list"),
        ("student.zero_stage=[1.0]", "sweep.axes.student.zero_stage.0: Input should be a valid integer (given: 1.0)."),
        ("teacher.top_k=[0]", "sweep.axes.teacher.top_k.0: Input should be greater than or equal to 1 (given: 0)."),
        ("student.epochs={low=1, high=2.5}", "sweep.axes.student.epochs.high: Input should be a valid integer"),
        (
            "student.method={low=1, high=2}",
            "sweep.axes.student.method.low: Input should be 'full' or 'lora' (given: 1).",
        ),
        (
            "student.learning_rate={low=0.5, high=2}",
            "sweep.axes.student.learning_rate.high: Input should be less than or",
        ),
    ],
)
def test_every_value_of_an_axis_is_one_that_the_setting_would_take(workspace: Workspace, axis: str, fault: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(workspace, f"sweep.axes.{axis}", "sweep.sampler=random")

    assert fault in error.value.found


def test_an_axis_may_hold_lists_texts_and_whole_numbers_for_floats(workspace: Workspace) -> None:
    axes = ("student.lora_targets=[['q_proj'], ['k_proj', 'v_proj']]", "student.huber_delta=[1, 0.5]")
    found = load(workspace, *(f"sweep.axes.{axis}" for axis in axes)).sweep.axes["student"]

    assert found == {"lora_targets": (("q_proj",), ("k_proj", "v_proj")), "huber_delta": (1, 0.5)}


@pytest.mark.parametrize("text", ["1\nseed = 2", "[1", "a b"])
def test_what_is_not_one_toml_value_behind_set_is_a_text(workspace: Workspace, text: str) -> None:
    with pytest.raises(SettingsError, match=r"student\.epochs: Input should be a valid integer"):
        load(workspace, f"student.epochs={text}")
    assert load(workspace, f"data.licence={text}").data.licence == text


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_settings_file_may_have_a_byte_order_mark(workspace: Workspace, ends: str, compress) -> None:  # type: ignore[no-untyped-def]
    text = workspace.settings.read_text()
    workspace.settings.write_bytes(compress(("\ufeff" + text.replace("\n", ends)).encode()))

    assert load(workspace).teacher.top_k == 5


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"[model]\npath = 'a'\npath = 'b'\n", "is not TOML: Cannot overwrite a value (at line 3, column 11)."),
        ("[model]".encode("utf-16"), "is UTF-16, not UTF-8."),
        (b"[model]\npath = '\xff'\n", "is not UTF-8 (byte 16)."),
        (b"[student]\nseed = " + b"1" * 5000, "is not TOML: Exceeds the limit"),
        (b"[student]\nseed = " + b"[" * 5000, "is nested too deeply."),
        (b"model = 3\n", ": model: Input should be a table (given: 3)."),
        (
            b"student = []\n[data]\nforget = 'f'\nretain = 'r'\nprefix = 'p'\n",
            ": student: Input should be a table (given: []).",
        ),
    ],
)
def test_a_settings_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)

    with pytest.raises(SettingsError) as error:
        load_settings(str(path))

    assert fault in error.value.found
    assert "\n" not in error.value.found


@pytest.mark.parametrize(
    ("config", "reason"), [("", "Is a directory"), ("/", "Is a directory"), ("no.toml", "No such file")]
)
def test_a_settings_file_that_is_no_file_is_refused(config: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load_settings(config)


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


@pytest.mark.parametrize("given", ["2020-02-29", "'2020-02-29'"])
def test_a_day_may_be_written_as_toml_writes_it_or_as_text(workspace: Workspace, given: str) -> None:
    assert load(workspace, f"model.template_date={given}").model.template_date == date(2020, 2, 29)


@pytest.mark.parametrize("given", ["2021-02-29", "2020-02-29T00:00:00", "20200", "true", "''", "1.5"])
def test_what_is_no_day_is_refused(workspace: Workspace, given: str) -> None:
    with pytest.raises(SettingsError, match=r"model\.template_date"):
        load(workspace, f"model.template_date={given}")


@pytest.mark.parametrize("preset", preset_names())
def test_settings_that_were_stored_read_back_as_they_were(preset: str, tmp_path: Path) -> None:
    settings = load_settings(preset)
    stored = settings.model_dump(mode="json", exclude={"sweep"})
    (tmp_path / "again.toml").write_text(toml_text(stored))

    again = load_settings(str(tmp_path / "again.toml"))

    assert again == settings.model_copy(update={"sweep": again.sweep})


def test_a_name_of_two_lines_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"evaluation\.questions.*A name has a line end"):
        load_settings("capitals", ['evaluation.questions={"a\\nb"="x.jsonl"}'])
