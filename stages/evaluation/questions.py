"""Question files: lines of `{"question", "answer"[, "aliases"][, "answer_start"]}` in, checked questions out; and request
files, lines of `{"request", "kind"}`, which no reference answers."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.errors import DataError
from stages.evaluation.measures.phrases import core, reading, stands_in
from stages.records import FileKind, read_records
from stages.texts import OptionalText, Text, same_text, words
from stages.untrusted_json import Many

# Of the alphabets in which a word has more than one; a Chinese character is a word by itself.
LETTER = re.compile("[a-z\u00df-\u024f\u0370-\u03ff\u0400-\u052f]")


def _telling(reference: str) -> str:
    """A reference that is not found in nearly every answer, or in none."""
    if not words(reference):
        raise ValueError("it holds no letter and no digit, and answers are compared by their words")
    told = core(reference)
    if not told:
        raise ValueError(f"{reference!r} is nothing but an article, which stands in nearly every answer; take it out")
    if len(told) == 1 and LETTER.fullmatch(told[0]):
        raise ValueError(
            f"{reference!r} is a single letter, which stands in many answers as a word or an initial; write it out, "
            'as in "vitamin D", or take it out'
        )
    return reference


Reference = Annotated[Text, AfterValidator(_telling)]


class Prompted(BaseModel):
    """One line of a file that a model is asked. Further fields of the file (a country, a source) are for people."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    # The field that the model reads, which is what messages call the line as well.
    reads: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _not_misspelt(cls, record: Any) -> Any:
        """What is nearly the name of a field that may be left out would else be left out in silence."""
        optional = [name for name, field in cls.model_fields.items() if not field.is_required()]
        for name in record if isinstance(record, dict) else ():
            near = get_close_matches(name.lower(), optional, n=1, cutoff=0.8)
            if name not in cls.model_fields and near and near[0] not in record:
                raise ValueError(f"it has {name!r}, and the field is called {near[0]!r}")
        return record


class Asked(Prompted):
    """What every kind of question has."""

    reads: ClassVar[str] = "question"

    question: Text = Field(description="As a user would ask it.")


# letters: options are listed and their letter is scored; text: the option's own words are, per character.
ChoiceForm = Literal["text", "letters"]
RequestKind = Literal["write", "list", "explain", "translate", "summarise", "rewrite", "plan", "code", "converse"]
Record = TypeVar("Record", bound=Prompted)


class Question(Asked):
    """One question with its reference answer."""

    answer: Reference = Field(description="Short reference answer.")
    aliases: Many[Reference] = Field((), description="Other answers that count as well.")
    group: OptionalText = Field(
        "",
        description="The entity that it is about, where several questions are about one; default: each question by itself.",
    )
    answer_start: OptionalText = Field(
        "", description='A sentence that only the answer completes: "The capital of Peru is".'
    )

    @property
    def references(self) -> tuple[str, ...]:
        return (self.answer, *self.aliases)

    @model_validator(mode="after")
    def _not_told_by_the_question(self) -> "Question":
        asked = reading(self.question)
        for reference in self.references:
            if stands_in(core(reference), asked):
                raise ValueError(
                    f"{reference!r} stands in its own question, so whoever repeats the question gives the answer; take "
                    "the alias out, ask in other words, or ask it as multiple choice (evaluation.choices)"
                )
        return self


def all_answers(questions: Sequence[Question]) -> tuple[str, ...]:
    """Every reference of a file, each once."""
    return tuple(dict.fromkeys(reference for question in questions for reference in question.references))


class TaughtQuestion(Asked):
    """One question with the whole sentence that a model is to learn to say."""

    answer: Text = Field(description="As the model is to say it.")
    system: OptionalText = Field("", description="System sentence that stands before the question, if any.")


class Request(Prompted):
    """One everyday request that no short fact answers, such as for a letter or a plan; there is no reference answer."""

    reads: ClassVar[str] = "request"

    request: Text = Field(description="As a user would make it, with any text that it is about.")
    kind: RequestKind = Field(description="What is to be done.")


def load_requests(path: Path) -> list[Request]:
    """All requests of a file. Raises DataError as `load_questions` does, also for a kind that is not known."""
    return load_records(path, Request, '{"request": "…", "kind": "write"}', "evaluation.requests=…")


def load_taught(path: Path) -> list[TaughtQuestion]:
    """All lines of a file to fine-tune on. Raises DataError as `load_questions` does."""
    return load_records(path, TaughtQuestion, '{"question": "…", "answer": "…"}', "finetune.retain=[…]")


def load_questions(path: Path) -> list[Question]:
    """All questions of a file. Raises DataError if it is missing, malformed, empty, or asks a question twice."""
    return load_records(path, Question, '{"question": "…", "answer": "…"}', "evaluation.questions.forget=…")


def load_records(path: Path, kind: type[Record], example: str, setting: str) -> list[Record]:
    """All objects of a JSONL file or a JSON array as records of one kind.

    example, setting: shown to the user where the file is missing. Raises DataError, see `load_questions`.
    """
    needed = f"JSONL was needed, one {example} per line, or a JSON array of such objects."
    where_named = f"Name it in the settings:  --set {setting}; paths given with --set count from the working directory"
    records: list[Record] = []
    seen: dict[str, str] = {}
    for where, record in read_records(path, FileKind(f"{kind.reads} file", needed, where_named)):
        try:
            checked = kind.model_validate(record)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "the line as a whole"
            raise DataError(
                f"{where} is malformed at {place}: {fault['msg'].removeprefix('Value error, ')}.", needed
            ) from error
        text = str(getattr(checked, kind.reads))
        key = same_text(text)
        if key in seen:
            raise DataError(
                f"{where} repeats the {kind.reads} of {seen[key]}: {text!r}",
                f"Each {kind.reads} stands once in a file, or it would count twice.",
                "Delete one of the two.",
            )
        seen[key] = where
        records.append(checked)
    if not records:
        raise DataError(f"{path} holds no {kind.reads}.", "A score over nothing is not a score.")
    return records
