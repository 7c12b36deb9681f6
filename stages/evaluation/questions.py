"""Question files: lines of `{"question", "answer"[, "aliases"][, "answer_start"]}` in, checked questions out."""

import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.errors import DataError
from stages.files import read_lines


class Asked(BaseModel):
    """What every kind of question has. Further fields of the file (a country, a source) are for people."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    question: str = Field(min_length=1, description="As a user would ask it.")


# letters: options are listed and their letter is scored; text: the option's own words are, per character.
ChoiceForm = Literal["text", "letters"]
Record = TypeVar("Record", bound=Asked)


class Question(Asked):
    """One question with its reference answer."""

    answer: str = Field(min_length=1, description="Short reference answer.")
    aliases: tuple[str, ...] = Field((), description="Other answers that count as well.")
    answer_start: str = Field("", description='A sentence that only the answer completes: "The capital of Peru is".')

    @property
    def references(self) -> tuple[str, ...]:
        return (self.answer, *self.aliases)


class TaughtQuestion(Asked):
    """One question with the whole sentence that a model is to learn to say."""

    answer: str = Field(min_length=1, description="As the model is to say it.")
    system: str = Field("", description="System sentence that stands before the question, if any.")


def load_taught(path: Path) -> list[TaughtQuestion]:
    """All lines of a file to fine-tune on. Raises DataError as `load_questions` does."""
    return load_records(path, TaughtQuestion, '{"question": "…", "answer": "…"}', "finetune.retain=[…]")


def load_questions(path: Path) -> list[Question]:
    """All questions of a file. Raises DataError if it is missing, malformed, empty, or asks a question twice."""
    return load_records(path, Question, '{"question": "…", "answer": "…"}', "evaluation.questions.forget=…")


def load_records(path: Path, kind: type[Record], example: str, setting: str) -> list[Record]:
    """All lines of a JSONL file as records of one kind of question.

    example, setting: shown to the user where the file is missing. Raises DataError, see `load_questions`.
    """
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The question file {path} cannot be read ({error}).",
            f"A JSONL file was needed, one {example} per line.",
            f"Name it in the settings:  --set {setting}",
        ) from error
    questions: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = kind.model_validate(json.loads(line))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "the line as a whole"
            raise DataError(f"{path}:{number} is malformed at {where}: {fault['msg']}.") from error
        except ValueError as error:
            raise DataError(f"{path}:{number} is not JSON: {error}.") from error
        text = question.question
        key = " ".join(text.casefold().split())
        if key in seen:
            raise DataError(f"{path}:{number} repeats the question of line {seen[key]}: {text!r}")
        seen[key] = number
        questions.append(question)
    if not questions:
        raise DataError(f"{path} holds no question.", "A score over nothing is not a score.")
    return questions
