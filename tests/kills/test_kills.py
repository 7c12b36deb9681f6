"""A few kills of `make bench-kills`, on commands that take no model; and what the comparison must see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from kills.outputs import Expected


def test_times_that_two_runs_do_not_share_are_passed_over_and_all_else_counts() -> None:
    one = {"run.json": [{"loss": 1.0, "step_s": 0.1}], "model": "a", "log": "x"}
    expected = Expected(one, {**one, "run.json": [{"loss": 1.0, "step_s": 0.2}], "log": "y"})

    assert expected.differences({**one, "run.json": [{"loss": 1.0, "step_s": 7.0}], "log": "z"}) == ([], [])
    assert expected.differences({**one, "run.json": [{"loss": 1.1, "step_s": 0.1}]}) == ([], ["run.json"])
    assert expected.differences({"run.json": one["run.json"], "model": "b", "x.partial": "c"}) == (
        ["x.partial"],
        ["model", "log"],
    )


@pytest.mark.slow
def test_commands_that_are_killed_and_given_again_leave_what_they_always_leave() -> None:
    """Forks of one process with everything imported, so a kill takes about a second."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    chosen = ("--only", "cache slice", "--only", "cache pull", "--share", "0.08", "--real", "0")
    script = Path(__file__).with_name("measure.py")

    ended = subprocess.run(
        [sys.executable, script, *chosen], env=environment, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:]
