"""The files of a run in, checked objects out: audit or evaluation, the record of the training, its metrics."""

import json
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from stages.errors import DataError
from stages.evaluation.report.rows import Audit, Record, Step, Training
from stages.files import read_lines

MAKE_ONE = "Make one:  duet evaluate --config … --model RUN/model --out RUN/evaluation.json"
Kind = TypeVar("Kind", bound=Record)
MOST_KEYS = 10_000  # of one object: question files, settings and parts have some hundreds


def load_audit(path: Path) -> Audit:
    """The audit or evaluation in a file. Raises DataError if it is unreadable or malformed."""
    audit = _checked(path, Audit, "An audit or an evaluation was needed.", MAKE_ONE)
    asked = audit.run.settings.get("evaluation")
    if not isinstance(asked, dict) or "forget_files" not in asked:
        raise DataError(
            f"{path} does not say which question files are to be forgotten.",
            "Without run.settings.evaluation.forget_files no score can be read, so nothing was written.",
            MAKE_ONE,
        )
    return audit


def load_training(path: Path) -> Training | None:
    """The record of the training; None where there is no such file. Raises DataError if it is malformed."""
    again = "Give the same `duet distill` again, or move the file away to report without it."
    return _checked(path, Training, "The record of `duet distill` was needed.", again) if path.is_file() else None


def load_metrics(path: Path) -> tuple[Step, ...]:
    """Every whole line of metrics.jsonl; nothing where there is no such file. Raises DataError if one is malformed."""
    if not path.is_file():
        return ()
    again = "Give the same `duet distill` again, or move the file away to report without it."
    needed = "One step of training per line was needed."
    try:
        lines = [line for line in read_lines(path) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).", needed, again) from error
    return tuple(_validated(path, line, Step, needed, again) for line in lines)


def _checked(path: Path, kind: type[Kind], needed: str, next_step: str) -> Kind:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).", needed, next_step) from error
    return _validated(path, text, kind, needed, next_step)


def _validated(path: Path, text: str, kind: type[Kind], needed: str, next_step: str) -> Kind:
    try:
        return kind.model_validate(json.loads(text, parse_constant=_not_json, object_pairs_hook=_of_few_keys))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file as a whole"
        raise DataError(f"{path} is malformed at {where}: {fault['msg']}.", needed, next_step) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.", needed, next_step) from error


def _of_few_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Each wrong value of a million would be a fault of its own, and a message of a kilobyte.
    if len(pairs) > MOST_KEYS:
        raise ValueError(f"an object has {len(pairs):,} keys, at most {MOST_KEYS:,} are read")
    return dict(pairs)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no figure")
