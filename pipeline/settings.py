"""All settings: defaults < TOML file < `--set section.key=value`. Typed, and unknown keys are errors.

What a stage alone reads lives with it: stages/student/settings.py, stages/evaluation/settings.py. What all sections have in
common, such as where a path counts from, is in stages/settings.py.
"""

import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from stages.errors import SettingsError
from stages.evaluation.settings import EvaluationSettings
from stages.language_model.engine import Dtype, EngineName
from stages.language_model.prompts import Template
from stages.language_model.template import TEMPLATE_DATE, Variable
from stages.records import FileKind, read_text
from stages.settings import Day, Given, InputPath, ModelName, Places, Section, one_or_many, plain
from stages.student.settings import FinetuneSettings, RelearningSettings, StudentSettings

# Pydantic's own steps inside a location: which kind of axis it is, and that a key is at fault.
NOT_KEYS = ("[list]", "[range]", "[key]")
MOST_CHARACTERS = 2**18
CHECKED_FIRST = "Settings are checked before anything is loaded, so nothing was run."
ALL_SETTINGS = "All of them with their meaning:  duet settings"
PATHS = """A relative path in a settings file is looked for in that file's folder (for a preset: in the repository), then in the
working directory. A path given with --set, or with any other option, counts from the working directory. ~/ is the home folder
in settings; of other options the shell makes it so."""


class ModelSettings(Section):
    """The base model, which is teacher and student, and how it is run where nothing is trained."""

    path: ModelName = Field("models/SmolLM2-135M-Instruct", description="Model folder, or hub name (owner/model).")
    template: Template = Field(
        "chat", description="chat: the model's own chat template; plain: question and answer as text."
    )
    template_variables: dict[str, Variable] = Field(
        default_factory=dict,
        description="Passed to the chat template by name: date_string, reasoning_effort or whatever else it reads.",
    )
    template_date: Day = Field(
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
    gpus: int = Field(1, ge=1, le=64, description="GPUs that vLLM spreads the teacher over; at most 64.")
    batch_rows: int = Field(64, ge=1, le=2**16, description="Prompts in flight at once; less needs less memory.")

    @model_validator(mode="after")
    def _only_what_is_used(self) -> "ModelSettings":
        if self.template == "plain" and (self.template_variables or self.thinking):
            raise ValueError(
                "template = plain uses no template_variables and no thinking: those are for template = chat"
            )
        return self


class DataSettings(Section):
    """What is to be forgotten, what kept, and the unlearning prefix."""

    forget: tuple[InputPath, ...] = Field(min_length=1, description="Query files of the forget set.")
    retain: tuple[InputPath, ...] = Field(min_length=1, description="Query files of the retain set.")
    prefix: InputPath = Field(description="Prefix file.")
    licence: str | None = Field(None, description="Written into the cache's manifest.")
    sensitivity: str | None = Field(None, description="Written into the cache's manifest.")

    _one_or_many = field_validator("forget", "retain", mode="before")(one_or_many)


class TeacherSettings(Section):
    """What is captured."""

    top_k: int = Field(20, ge=1, le=2**20, description="K: candidates kept per position.")
    positions: int = Field(1, ge=1, le=2**17, description="T: supervised positions per query; 1 is the paper.")
    prefix_on_retain: bool = Field(True, description="Ask retain queries behind the prefix, too (eq. 3 of the paper).")
    prefix_on_forget: bool = Field(
        True, description="Ask forget queries behind the prefix. False captures the base model, to be compared."
    )
    shard_rows: int = Field(
        128, ge=1, le=10**6, description="Rows per Parquet shard: the unit of work that a kill can cost."
    )

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
SWEPT: dict[str, type[Section]] = {"student": StudentSettings, "teacher": TeacherSettings}


class SweepSettings(Section):
    """What `duet sweep` varies on one frozen cache; other commands ignore it."""

    axes: dict[Literal["student", "teacher"], dict[str, Axis]] = Field(
        default_factory=dict,
        description="Values by setting: any of student; teacher.top_k and teacher.positions, up to the cache's own.",
    )
    sampler: Literal["grid", "random", "tpe"] = Field(
        "grid", description="grid runs every combination; random and tpe choose `trials` of them (Optuna)."
    )
    trials: int = Field(20, ge=1, le=10**5, description="Runs in all under random and tpe.")
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
                _refuse_bad_values(section, key, values)
        return self


def _refuse_bad_values(section: str, key: str, axis: Any) -> None:
    """Raise ValidationError for the first value, or end of a range, that the swept setting itself would not take."""
    field = SWEPT[section].model_fields[key]
    kind: Any = Annotated[(field.annotation, *field.metadata, BeforeValidator(plain))]
    own: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
    ends = {"low": axis.low, "high": axis.high} if isinstance(axis, Range) else dict(enumerate(axis))
    for place, value in ends.items():
        try:
            own.validate_python(value)
        except ValidationError as error:
            fault = error.errors()[0]
            here = ("axes", section, key, place, *fault["loc"])
            words = PydanticCustomError("axis", "{words}", {"words": fault["msg"]})
            told = InitErrorDetails(type=words, loc=here, input=fault["input"])
            raise ValidationError.from_exception_data("sweep", [told]) from error


class TrustSettings(Section):
    """Who must have signed a cache (`duet cache sign`) before it is used."""

    keys: tuple[InputPath, ...] = Field(
        (), description="Files of public Ed25519 keys, as ssh's *.pub or PEM; one of them must have signed."
    )
    require: bool = Field(
        False, description="Refuse a cache that none of the keys signed: distill, sweep and cache pull --config."
    )

    _one_or_many = field_validator("keys", mode="before")(one_or_many)

    @model_validator(mode="after")
    def _keys_to_require(self) -> "TrustSettings":
        if self.require and not self.keys:
            raise ValueError("require = true needs keys: without any, every cache would be refused")
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
    trust: TrustSettings = TrustSettings()

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
    is_preset = Path(config).suffix != ".toml" and config in preset_names()
    try:
        values = _read_toml(config, is_preset)
        for override in overrides:
            _apply(values, override)
        return Settings.model_validate(values, context={"places": _places(config, is_preset)})
    except ValidationError as error:
        raise _as_told(error, config) from error
    except RecursionError as error:
        raise SettingsError(f"{config} is nested too deeply.", CHECKED_FIRST, ALL_SETTINGS) from error


def _as_told(error: ValidationError, config: str) -> SettingsError:
    """The first fault, by section and key, in the words of a settings file."""
    # A misspelt key is unknown under one name and missing under another: the first is what to correct.
    fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in fault["loc"] if part not in NOT_KEYS)
    if fault["type"] == "extra_forbidden":
        return SettingsError(
            f"{config} sets {_short(where)}, and there is no such setting.", _known_keys(fault["loc"]), ALL_SETTINGS
        )
    what = fault["msg"].removeprefix("Value error, ").replace("Tuple", "List").replace("tuple", "list")
    what = re.sub("valid dictionary( or instance of .*)?$", "table", what).replace("an instance of Path", "a path")
    # A missing value was not given, and a bad combination is no single one.
    given = "" if fault["type"] in ("missing", "value_error") else f" (given: {_shown(fault['input'])})"
    return SettingsError(f"{config}: {_short(where) or 'settings'}: {what}{given}.", CHECKED_FIRST, ALL_SETTINGS)


def _shown(value: Any) -> str:
    try:
        return _short(repr(_as_lists(value)))
    except (ValueError, RecursionError):  # a whole number of thousands of digits, or lists within lists without end
        return "too long to be shown"


def _as_lists(value: Any) -> Any:
    return [_as_lists(each) for each in value] if isinstance(value, tuple) else value


def _short(text: str) -> str:
    """The text on one line, and not more of it than one can read."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:120])
    return line if len(text) <= 120 else f"{line[:80]} … {len(text):,} characters"


def _places(config: str, is_preset: bool) -> Places:
    """Where the relative paths of this settings file are looked for before the working directory."""
    here = Path.cwd()
    folder = project_folder() if is_preset else Path(config).parent
    if folder is None:
        return Places(
            None,
            f"The data files of a preset are part of DUET's repository, not of the installed package, and {here} has none.\n"
            "  Clone the repository and give the command there, or name files of your own, as below.",
        )
    places = dict.fromkeys((folder.resolve(), here))
    return Places(folder, f"It was looked for in {' and in '.join(map(str, places))}.")


def project_folder() -> Path | None:
    """The repository that this package was started from, to whose files the presets point; None where it is installed alone."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "data").is_dir() and (root / "pyproject.toml").is_file() else None


def _read_toml(config: str, is_preset: bool) -> dict[str, Any]:
    if is_preset:
        text = (resources.files("pipeline") / "presets" / f"{config}.toml").read_text(encoding="utf-8")
    else:
        needed = f"A TOML file was needed, or the name of a preset: {', '.join(preset_names())}."
        text = read_text(
            Path(config), FileKind("settings file", needed, "For instance:  --config capitals", SettingsError)
        )
    if len(text) > MOST_CHARACTERS:
        raise SettingsError(
            f"{config} has {len(text):,} characters, at most {MOST_CHARACTERS:,} are read.",
            CHECKED_FIRST,
            "Queries and questions stand in files of their own, which the settings name.",
        )
    try:
        return tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise SettingsError(
            f"{config} is not TOML: {error}.",
            CHECKED_FIRST,
            "Correct that line; pipeline/presets/capitals.toml is an example.",
        ) from error


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    keys = name.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise SettingsError(
            f"--set {_short(override)} is not section.key=value.",
            "One setting was needed, by its section and its key.",
            "For instance:  --set student.epochs=4",
        )
    table = values
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise SettingsError(
                f"--set {_short(override)}: {key} is a value, not a section.",
                "Only a section has keys.",
                ALL_SETTINGS,
            )
    table[keys[-1]] = _marked(_value(text))


def _value(text: str) -> Any:
    """What stands behind `--set section.key=`: one TOML value, or else a bare word or path, which needs no quotes."""
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:  # no TOML, or a whole number of thousands of digits
        return text
    return found["value"] if found.keys() == {"value"} else text


def _marked(value: Any) -> Any:
    """The value with every string in it known to come from `--set`."""
    if isinstance(value, list):
        return [_marked(each) for each in value]
    if isinstance(value, dict):
        return {key: _marked(each) for key, each in value.items()}
    return Given(value) if isinstance(value, str) else value


def _known_keys(location: tuple[int | str, ...]) -> str:
    section: Any = Settings
    for part in location[:-1]:
        if part == "axes":  # below it, under any name, come the keys of a range
            section = Range
            break
        section = section.model_fields[str(part)].annotation
    return f"Known here: {', '.join(section.model_fields)}."
