"""Question files: lines of `{"question", "answer"[, "aliases"][, "answer_start"]}` in, checked questions out."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.errors import DataError
from stages.files import read_lines


class Question(BaseModel):
    """One question with its reference answer. Further fields of the file (a country, a source) are for people."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    question: str = Field(min_length=1, description="As a user would ask it.")
    answer: str = Field(min_length=1, description="Short reference answer.")
    aliases: tuple[str, ...] = Field((), description="Other answers that count as well.")
    answer_start: str = Field("", description='A sentence that only the answer completes: "The capital of Peru is".')

    @property
    def references(self) -> tuple[str, ...]:
        return (self.answer, *self.aliases)


def load_questions(path: Path) -> list[Question]:
    """All questions of a file. Raises DataError if it is missing, malformed, empty, or asks a question twice."""
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The question file {path} cannot be read ({error}).",
            'A JSONL file was needed, one {"question": "…", "answer": "…"} per line.',
            "Name it in the settings:  --set evaluation.questions.forget=…",
        ) from error
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = Question.model_validate(json.loads(line))
        except ValidationError as error:
            fault = error.errors()[0]
            raise DataError(
                f"{path}:{number} is malformed at {'.'.join(map(str, fault['loc']))}: {fault['msg']}."
            ) from error
        except ValueError as error:
            raise DataError(f"{path}:{number} is not JSON: {error}.") from error
        key = " ".join(question.question.casefold().split())
        if key in seen:
            raise DataError(f"{path}:{number} repeats the question of line {seen[key]}: {question.question!r}")
        seen[key] = number
        questions.append(question)
    if not questions:
        raise DataError(f"{path} holds no question.", "A score over nothing is not a score.")
    return questions
