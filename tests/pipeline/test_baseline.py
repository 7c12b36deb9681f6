"""What an earlier audit measured is taken over for the models that are the same, and for no others."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.baseline import baseline_rows
from pipeline.cli import duet
from stages.errors import DataError, SettingsError


@pytest.mark.parametrize(
    ("changed", "lens", "relearnt", "instructed"),
    [
        ({}, ["base", "control"], ["control"], ["base", "control"]),
        ({"control": "c2"}, ["base"], [], ["base"]),
        ({"relearning": "r2"}, ["base", "control"], [], ["base", "control"]),
        ({"instructions": "i2"}, ["base", "control"], ["control"], []),
    ],
)
def test_rows_of_models_that_are_the_same_are_taken_over(
    tmp_path: Path, changed: dict[str, str], lens: list[str], relearnt: list[str], instructed: list[str]
) -> None:
    inputs = {"base": "b", "student": "s", "control": "c", "relearning": "r", "instructions": "i"}
    rows = {
        "lens": [{"model": role} for role in ("base", "student", "control")],
        "instructions": [{"model": role} for role in ("base", "student", "control")],
        "relearning": [{"model": role} for role in ("student", "control")],
        "relearning_answers": None,
    }
    earlier = tmp_path / "audit.json"
    earlier.write_text(json.dumps({**rows, "run": {"inputs": inputs | changed}}))

    found = baseline_rows(earlier, inputs)

    assert [row["model"] for row in found["lens"]] == lens
    assert [row["model"] for row in found.get("relearning", [])] == relearnt
    assert [row["model"] for row in found.get("instructions", [])] == instructed
    assert found.get("relearning_answers", []) == []
    assert baseline_rows(None, inputs) == {}
    with pytest.raises(SettingsError, match="another base model"):
        baseline_rows(earlier, inputs | {"base": "b2"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[1]", "is not a JSON object"),
        ("{}", "is not an evaluation"),
        ('{"run": 3}', "is not an evaluation"),
        ('{"run": {"inputs": "base"}}', "is not an evaluation"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text)

    with pytest.raises(DataError, match=message):
        baseline_rows(path, {"base": "b"})
    result = CliRunner().invoke(duet, ["compare", str(path)])
    assert result.exit_code == 1
    assert message in result.stderr
