"""What an earlier evaluation found of models that are the same in this one: it is taken over and not asked again."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from stages.errors import DataError, SettingsError
from stages.files import read_json

if TYPE_CHECKING:
    from pipeline.hearing import Heard

TAKEN_OVER = ("base", "teacher")
# Parts of an audit that have inputs of their own, with their keys.
OWN_INPUTS = {"instructions": ("instructions",), "relearning": ("relearning", "relearning_answers")}


def baseline_heard(path: Path | None, inputs: Mapping[str, str]) -> "Heard | None":
    """What base, teacher and this same control said in an earlier evaluation, if one is named.

    inputs: those of this evaluation. Raises SettingsError unless the earlier one was made alike.
    """
    from pipeline.hearing import Heard, nothing_heard

    if path is None:
        return None
    found, roles = _earlier(path, inputs)
    empty = nothing_heard()

    def frame(name: str, like: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame(found[name], schema=like.schema).filter(pl.col("model").is_in(roles))

    return Heard(
        frame("answers", empty.answers),
        frame("samples", empty.samples),
        frame("choice_answers", empty.choices),
        frame("membership_answers", empty.membership),
        [each for each in found["first_tokens"] if each["model"] in roles],
    )


def baseline_rows(path: Path | None, inputs: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """By key of an audit's parts, what stands in the earlier one of models that are the same here; raises as above."""
    if path is None:
        return {}
    found, roles = _earlier(path, inputs)
    keys = ["lens"]
    for part, own in OWN_INPUTS.items():
        if found["run"]["inputs"].get(part) == inputs[part]:
            keys += own
    return {key: [row for row in found.get(key) or () if row["model"] in roles] for key in keys}


def _earlier(path: Path, inputs: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The earlier evaluation, and the models in it whose rows stand here as well."""
    found = read_json(path, "An earlier evaluation was needed, so nothing was asked.", "Leave --baseline out.")
    try:
        earlier: dict[str, str] = dict(found["run"]["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not an evaluation.",
            "A file that `duet evaluate` or `duet audit` wrote was needed, so nothing was asked.",
            "Leave --baseline out.",
        ) from error
    if earlier.get("base") != inputs["base"]:
        raise SettingsError(
            f"{path} was made with another base model, prefix, question file or setting.",
            "Its answers cannot stand beside this student's, so nothing was asked.",
            "Leave --baseline out.",
        )
    same_control = "control" in inputs and earlier.get("control") == inputs["control"]
    return found, (*TAKEN_OVER, "control") if same_control else TAKEN_OVER
