"""What an earlier audit measured is taken over for the models that are the same, and for no others."""

import json
from pathlib import Path

import pytest

from pipeline.baseline import baseline_rows
from stages.errors import SettingsError


@pytest.mark.parametrize(
    ("changed", "lens", "relearnt"),
    [
        ({}, ["base", "control"], ["control"]),
        ({"control": "c2"}, ["base"], []),
        ({"relearning": "r2"}, ["base", "control"], []),
    ],
)
def test_rows_of_models_that_are_the_same_are_taken_over(
    tmp_path: Path, changed: dict[str, str], lens: list[str], relearnt: list[str]
) -> None:
    inputs = {"base": "b", "student": "s", "control": "c", "relearning": "r"}
    rows = {
        "lens": [{"model": role} for role in ("base", "student", "control")],
        "relearning": [{"model": role} for role in ("student", "control")],
        "relearning_answers": None,
    }
    earlier = tmp_path / "audit.json"
    earlier.write_text(json.dumps({**rows, "run": {"inputs": inputs | changed}}))

    found = baseline_rows(earlier, inputs)

    assert [row["model"] for row in found["lens"]] == lens
    assert [row["model"] for row in found.get("relearning", [])] == relearnt
    assert found.get("relearning_answers", []) == []
    assert baseline_rows(None, inputs) == {}
    with pytest.raises(SettingsError, match="another base model"):
        baseline_rows(earlier, inputs | {"base": "b2"})
