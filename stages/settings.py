"""What every section of the settings has in common: strict types, bounds, and paths that a file names.

TOML says what is a number and what is a text, so nothing is converted: no "1" for 1, no 1 for true, no 4.0 for 4.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from stages.texts import is_blank, unfit_character

MOST_WHOLE = 2**31 - 1
# What Linux and macOS take: bytes of a whole path, and of each name in it.
MOST_PATH_BYTES, MOST_NAME_BYTES = 1023, 255


class Section(BaseModel):
    """A table of settings: unknown keys, other types and figures that no command can use are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)


def plain(value: Any) -> Any:
    """A value of a TOML file with its lists as tuples; raises for one that no setting can have.

    What stands in a table within is for its own type to judge.
    """
    _refuse_unusable(value)
    return _tuples(value)


class Given(str):
    """A string that was given with `--set`: a path in it counts from the working directory."""


# Path() makes a PosixPath or a WindowsPath, and until Python 3.12 only these can be derived from.
class Absent(type(Path())):  # type: ignore[misc]
    """A path in a settings file that names nothing. looked_for: where it was looked for, and what to do."""

    looked_for: str = ""

    def __reduce__(self) -> Any:
        # A path is otherwise pickled without what it is told, on its way to a process of its own.
        return _absent, (str(self), self.looked_for)


@dataclass(frozen=True)
class Places:
    """Where a relative path of a settings file is looked for before the working directory.

    folder: None where there is no such place. advice: what to do about a path that is nowhere.
    """

    folder: Path | None
    advice: str

    def find(self, name: str) -> Path | None:
        """The path in the folder, if something is there; as written, if that is what it means without a folder, too."""
        if self.folder is None or not is_there(found := self.folder / name):
            return None
        written = Path(name)
        return written if is_there(written) and written.samefile(found) else found


def _absent(name: str, looked_for: str) -> Absent:
    path = Absent(name)
    path.looked_for = looked_for
    return path


def is_there(path: Path) -> bool:
    """Whether the path names something that can be looked at."""
    try:
        return path.exists()
    except OSError:
        return False


def _tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return {key: _tuples(each) for key, each in value.items()} if isinstance(value, dict) else value


def _refuse_unusable(value: Any) -> None:
    """Raise for an empty text, one with control characters, and a whole number that no command can count to."""
    if isinstance(value, list | tuple):
        for each in value:
            _refuse_unusable(each)
    elif isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise PydanticCustomError("too_large", "Whole numbers go up to 2147483647")
    elif isinstance(value, str):
        _refuse_unusable_text(value)
    elif isinstance(value, dict):
        for key in value:
            _refuse_unusable_text(key)
            if not key.isprintable():
                raise PydanticCustomError("unfit", "A name has a line end or another character that cannot be printed")


def _refuse_unusable_text(text: str) -> None:
    if is_blank(text):
        raise PydanticCustomError("blank", "The text is empty")
    if unfit := unfit_character(text):
        raise PydanticCustomError("unfit", "The text holds {unfit}", {"unfit": unfit})


def _refuse_long_path(name: str) -> None:
    if len(name.encode()) > MOST_PATH_BYTES or any(len(part.encode()) > MOST_NAME_BYTES for part in name.split("/")):
        raise PydanticCustomError("too_long", "The path is longer than a file system takes")


def _places(info: ValidationInfo) -> Places | None:
    return info.context["places"] if info.context else None


def _at_home(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise PydanticCustomError("no_home", "~ stands for the home folder, and this account has none") from error


def _input_path(value: Any, info: ValidationInfo) -> Any:
    """The path that a string of the settings means."""
    if not isinstance(value, str):
        return value
    _refuse_unusable_text(value)
    _refuse_long_path(value)
    places = _places(info)
    if value.startswith("~/"):
        return _at_home(value)
    if places is None or isinstance(value, Given) or Path(value).is_absolute():
        return Path(value)
    if found := places.find(value):
        return found
    if is_there(Path(value)):
        return Path(value)
    return _absent(value, places.advice)


def _model_name(value: Any, info: ValidationInfo) -> Any:
    """The same for a model, which may be a hub name as well: a path is what names a folder that is there."""
    if not isinstance(value, str):
        return value
    _refuse_unusable_text(value)
    _refuse_long_path(value)
    places = _places(info)
    if value.startswith("~/"):
        return str(_at_home(value))
    if places is None or isinstance(value, Given) or Path(value).is_absolute():
        return str(value)
    found = places.find(value)
    return str(found) if found and found.is_dir() and str(found) != str(Path(value)) else str(value)


def _whole(value: Any) -> Any:
    """A choice among whole numbers would else take True for 1 and 1.0 as well."""
    if type(value) is not int:
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _day(value: Any) -> Any:
    """A day, which TOML can write as such; settings that were stored as JSON hold it as text."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise PydanticCustomError("date_type", "Input should be a day, such as 2024-07-26") from error
    if type(value) is not date:  # a datetime is a date as well
        raise PydanticCustomError("date_type", "Input should be a day, such as 2024-07-26")
    return value


# A day without a time.
Day = Annotated[date, BeforeValidator(_day)]
# A file or a folder to be read.
InputPath = Annotated[Path, BeforeValidator(_input_path)]
# A model's folder, or its name on the hub.
ModelName = Annotated[str, BeforeValidator(_model_name)]
WholeChoice = BeforeValidator(_whole)


def one_or_many(value: Any) -> Any:
    """One path as a list of one."""
    return (value,) if isinstance(value, str | Path) else value
