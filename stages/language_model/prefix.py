"""The unlearning prefix: a JSON file in, a checked system sentence with example turns out."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.errors import DataError
from stages.logit_cache.fingerprint import sha256_json


class Turn(BaseModel):
    """One example exchange of the prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str = Field(min_length=1, description="What the user asks.")
    assistant: str = Field(min_length=1, description="What the teacher is to have answered.")


class Prefix(BaseModel):
    """The unlearning prefix x_ic: a system sentence and example turns, in front of the query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = Field(min_length=1, description="System sentence.")
    turns: tuple[Turn, ...] = Field((), description="Example turns, oldest first.")

    def sha256(self) -> str:
        return sha256_json(self.model_dump())


def load_prefix(path: Path) -> Prefix:
    """The prefix in a JSON file. Raises DataError if the file is missing or malformed."""
    try:
        return Prefix.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(
            f"The prefix file {path} cannot be read ({error.strerror}).",
            'A JSON file was needed: {"system": "…", "turns": [{"user": "…", "assistant": "…"}]}',
            "Name it in the settings:  --set data.prefix=…",
        ) from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "top level"
        raise DataError(f"The prefix file {path} is malformed at {where}: {fault['msg']}.") from error
    except ValueError as error:
        raise DataError(f"The prefix file {path} is not JSON: {error}.") from error
