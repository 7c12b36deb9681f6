"""The unlearning prefix: a JSON file in, a checked system sentence with example turns out."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.errors import DataError
from stages.logit_cache.fingerprint import sha256_json
from stages.records import FileKind, read_object
from stages.texts import Text
from stages.untrusted_json import Many

KIND = FileKind(
    "prefix file",
    'A JSON file was needed: {"system": "…", "turns": [{"user": "…", "assistant": "…"}]}',
    "Name it in the settings:  --set data.prefix=…",
)


class Turn(BaseModel):
    """One example exchange of the prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: Text = Field(description="What the user asks.")
    assistant: Text = Field(description="What the teacher is to have answered.")


class Prefix(BaseModel):
    """The unlearning prefix x_ic, in front of the query: a system sentence, example turns, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: Text = Field("", description="System sentence.")
    turns: Many[Turn] = Field((), description="Example turns, oldest first.")

    @model_validator(mode="after")
    def _not_empty(self) -> "Prefix":
        if not self.system and not self.turns:
            raise ValueError("there is neither a system sentence nor turns")
        return self

    def sha256(self) -> str:
        return sha256_json(self.model_dump())


def load_prefix(path: Path) -> Prefix:
    """The prefix in a JSON file. Raises DataError if the file is missing or malformed."""
    try:
        return Prefix.model_validate(read_object(path, KIND))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "top level"
        what = fault["msg"].removeprefix("Value error, ")
        raise DataError(f"The prefix file {path} is malformed at {where}: {what}.", KIND.needed) from error
