"""All settings: defaults < TOML file < `--set section.key=value`. Typed, and unknown keys are errors.

What a stage alone reads lives with it: stages/student/settings.py, stages/evaluation/settings.py.
"""

import tomllib
from collections.abc import Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from stages.errors import SettingsError
from stages.evaluation.settings import EvaluationSettings
from stages.language_model.engine import Dtype, EngineName
from stages.language_model.prompts import Template
from stages.language_model.template import TEMPLATE_DATE, Variable
from stages.student.settings import FinetuneSettings, RelearningSettings, StudentSettings

# Pydantic's own steps inside a location: which kind of axis it is, and that a key is at fault.
NOT_KEYS = ("[list]", "[range]", "[key]")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSettings(Section):
    """The base model, which is teacher and student, and how it is run where nothing is trained."""

    path: str = Field("models/SmolLM2-135M-Instruct", description="Model folder, or hub name (owner/model).")
    template: Template = Field(
        "chat", description="chat: the model's own chat template; plain: question and answer as text."
    )
    template_variables: dict[str, Variable] = Field(
        default_factory=dict,
        description="Passed to the chat template by name: date_string, reasoning_effort or whatever else it reads.",
    )
    template_date: date = Field(
        TEMPLATE_DATE,
        description="The day that a template which writes today's date is told: the same for teacher, student and evaluation.",
    )
    thinking: bool | None = Field(
        None,
        description="Let the model think before it answers, in evaluations; supervised is always the answer itself. "
        "Default: off, unless template_variables turn on the template's own switch (enable_thinking).",
    )
    engine: EngineName = Field("auto", description="vllm, transformers, or auto: vllm where it is installed.")
    dtype: Dtype = Field("float32", description="Dtype of inference. On a CPU float32 is the honest one.")
    gpus: int = Field(1, ge=1, description="GPUs that vLLM spreads the teacher over.")
    batch_rows: int = Field(64, ge=1, description="Prompts in flight at once; less needs less memory.")

    @model_validator(mode="after")
    def _only_what_is_used(self) -> "ModelSettings":
        if self.template == "plain" and (self.template_variables or self.thinking):
            raise ValueError(
                "template = plain uses no template_variables and no thinking: those are for template = chat"
            )
        return self


class DataSettings(Section):
    """What is to be forgotten, what kept, and the unlearning prefix. Paths count from the working directory."""

    forget: tuple[Path, ...] = Field(min_length=1, description="Query files of the forget set.")
    retain: tuple[Path, ...] = Field(min_length=1, description="Query files of the retain set.")
    prefix: Path = Field(description="Prefix file.")
    licence: str | None = Field(None, description="Written into the cache's manifest.")
    sensitivity: str | None = Field(None, description="Written into the cache's manifest.")

    @field_validator("forget", "retain", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path) else value


class TeacherSettings(Section):
    """What is captured."""

    top_k: int = Field(20, ge=1, description="K: candidates kept per position.")
    positions: int = Field(1, ge=1, description="T: supervised positions per query; 1 is the paper.")
    prefix_on_retain: bool = Field(True, description="Ask retain queries behind the prefix, too (eq. 3 of the paper).")
    prefix_on_forget: bool = Field(
        True, description="Ask forget queries behind the prefix. False captures the base model, to be compared."
    )
    shard_rows: int = Field(128, ge=1, description="Rows per Parquet shard: the unit of work that a kill can cost.")

    @model_validator(mode="after")
    def _prefix_not_on_retain_alone(self) -> "TeacherSettings":
        if self.prefix_on_retain and not self.prefix_on_forget:
            raise ValueError("prefix_on_retain without prefix_on_forget would make the model forget what is to be kept")
        return self


class Range(Section):
    """An axis without steps, for the random and TPE samplers."""

    low: int | float = Field(description="Least value; whole numbers at both ends draw whole numbers.")
    high: int | float = Field(description="Greatest value.")
    log: bool = Field(False, description="Draw the logarithm evenly, as fits a learning rate.")

    @model_validator(mode="after")
    def _not_empty(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, which is {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; a logarithm needs more than 0")
        return self


def _axis_kind(value: Any) -> str:
    return "[range]" if isinstance(value, dict | Range) else "[list]"


Axis = Annotated[
    Annotated[tuple[Any, ...], Tag("[list]")] | Annotated[Range, Tag("[range]")], Discriminator(_axis_kind)
]


class SweepSettings(Section):
    """What `duet sweep` varies on one frozen cache; other commands ignore it."""

    axes: dict[Literal["student", "teacher"], dict[str, Axis]] = Field(
        default_factory=dict,
        description="Values by setting: any of student; teacher.top_k and teacher.positions, up to the cache's own.",
    )
    sampler: Literal["grid", "random", "tpe"] = Field(
        "grid", description="grid runs every combination; random and tpe choose `trials` of them (Optuna)."
    )
    trials: int = Field(20, ge=1, description="Runs in all under random and tpe.")
    seed: int = Field(0, ge=0, description="Seed of the sampler.")

    @model_validator(mode="after")
    def _known_axes(self) -> "SweepSettings":
        allowed = {"student": set(StudentSettings.model_fields), "teacher": {"top_k", "positions"}}
        for section, axes in self.axes.items():
            for key, values in axes.items():
                if key not in allowed[section]:
                    raise ValueError(f"axes.{section}.{key} cannot be swept on a frozen cache")
                if self.sampler == "grid" and isinstance(values, Range):
                    raise ValueError(f"axes.{section}.{key} is a range; a grid needs a list of values")
                if values == ():
                    raise ValueError(f"axes.{section}.{key} has no value")
        return self


class Settings(Section):
    """One file of settings, complete."""

    model: ModelSettings = ModelSettings()
    data: DataSettings
    teacher: TeacherSettings = TeacherSettings()
    student: StudentSettings = StudentSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    sweep: SweepSettings = SweepSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    relearning: RelearningSettings = RelearningSettings()

    def on_validation(self) -> "Settings":
        """The same, asking the validation files. Raises SettingsError if there are none."""
        asked = self.evaluation
        if not asked.validation:
            raise SettingsError(
                "The settings name no validation files.",
                "Tuning on the held-out files would make their scores worthless.",
                "Name some under [evaluation.validation].",
            )
        # A translation is one of the held-out questions, and multiple choice is held out, too.
        paraphrases = {one: of for one, of in asked.paraphrases.items() if {one, of} <= asked.validation.keys()}
        other = {
            "questions": asked.validation,
            "paraphrases": paraphrases,
            "translated": {},
            "choices": {},
            "tasks": (),
        }
        return self.model_copy(update={"evaluation": asked.model_copy(update=other)})

    def with_evaluation(self, **changes: Any) -> "Settings":
        """The same with other values under [evaluation]."""
        return self.model_copy(update={"evaluation": self.evaluation.model_copy(update=changes)})


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("pipeline") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_settings(config: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a TOML file, or of a preset by its name, with `section.key=value` overrides on top.

    Raises SettingsError for a missing file, bad TOML, an unknown key, a value of the wrong type or a bad combination.
    """
    values = _read_toml(config)
    for override in overrides:
        _apply(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        # A misspelt key is unknown under one name and missing under another: the first is what to correct.
        fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in fault["loc"] if part not in NOT_KEYS)
        if fault["type"] == "extra_forbidden":
            raise SettingsError(
                f"{config} sets {where}, and there is no such setting.",
                _known_keys(fault["loc"]),
                "All of them with their meaning:  duet settings",
            ) from error
        what = fault["msg"].removeprefix("Value error, ").replace("Tuple", "List").replace("tuple", "list")
        # A missing value was not given, and a bad combination is no single one.
        given = "" if fault["type"] in ("missing", "value_error") else f" (given: {fault['input']!r})"
        raise SettingsError(
            f"{config}: {where or 'settings'}: {what}{given}.",
            "Settings are checked before anything is loaded, so nothing was run.",
            "All of them with their meaning:  duet settings",
        ) from error


def _read_toml(config: str) -> dict[str, Any]:
    path = Path(config)
    try:
        if path.suffix != ".toml" and config in preset_names():
            text = (resources.files("pipeline") / "presets" / f"{config}.toml").read_text(encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The settings file {config} cannot be read ({error.strerror if isinstance(error, OSError) else error}).",
            f"A TOML file was needed, or the name of a preset: {', '.join(preset_names())}.",
            "For instance:  --config capitals",
        ) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{config} is not TOML: {error}.",
            "Settings are checked before anything is loaded, so nothing was run.",
            "Correct that line; pipeline/presets/capitals.toml is an example.",
        ) from error


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    keys = name.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise SettingsError(
            f"--set {override} is not section.key=value.",
            "One setting was needed, by its section and its key.",
            "For instance:  --set student.epochs=4",
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word or path needs no quotes on a command line
    table = values
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise SettingsError(
                f"--set {override}: {key} is a value, not a section.",
                "Only a section has keys.",
                "All settings with their meaning:  duet settings",
            )
    table[keys[-1]] = value


def _known_keys(location: tuple[int | str, ...]) -> str:
    section: Any = Settings
    for part in location[:-1]:
        if part == "axes":  # below it, under any name, come the keys of a range
            section = Range
            break
        section = section.model_fields[str(part)].annotation
    return f"Known here: {', '.join(section.model_fields)}."
