"""Sweeps on the tiny model: what is run, skipped, retried and refused, and what the leaderboard says."""

import tomllib

import polars as pl
import pytest
from click.testing import Result
from workspace import Workspace

from pipeline.settings import load_settings
from pipeline.sweep import grid

AXES = ("--set", "sweep.axes.student.learning_rate=[1e-3,1e-2]", "--set", "sweep.axes.teacher.top_k=[3,5]")


def sweep(workspace: Workspace, *more: object) -> Result:
    common = ("--config", workspace.settings, "--cache", workspace.cache, "--out", workspace.folder / "sweep")
    return workspace.duet("sweep", *common, *more)


def test_a_grid_is_every_combination_with_the_last_axis_fastest(workspace: Workspace) -> None:
    settings = load_settings(str(workspace.settings), [value for value in AXES if value != "--set"])

    assert grid(settings.sweep) == [
        {"student.learning_rate": rate, "teacher.top_k": k} for rate in (1e-3, 1e-2) for k in (3, 5)
    ]


@pytest.mark.parametrize(
    ("axes", "code", "message"),
    [
        ((), 2, "name no axis to sweep"),
        (("--set", "sweep.axes.teacher.top_k=[5,50]"), 2, "goes up to 50"),
        (("--set", "sweep.axes.student.rate=[1]"), 2, "cannot be swept"),
        (("--set", "sweep.axes.student.epochs=[]"), 2, "has no value"),
        (("--set", "sweep.axes.student.learning_rate={low=1e-5,high=1e-4}"), 2, "a grid needs a list"),
    ],
)
def test_bad_axes_are_refused_before_anything_runs(
    workspace: Workspace, axes: tuple[str, ...], code: int, message: str
) -> None:
    assert workspace.teacher_cache().exit_code == 0

    result = sweep(workspace, *axes)

    assert result.exit_code == code
    assert message in result.output
    assert not (workspace.folder / "sweep").exists()


@pytest.mark.slow
def test_a_sweep_runs_all_ranks_all_and_runs_nothing_twice(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0

    first = sweep(workspace, *AXES, "--preset-out", workspace.folder / "best.toml")
    assert first.exit_code == 0, first.output
    folder = workspace.folder / "sweep"
    board = pl.read_parquet(folder / "leaderboard.parquet")
    logs = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*.log")}

    assert sorted(board.select("student.learning_rate", "teacher.top_k").rows()) == [
        (rate, k) for rate in (1e-3, 1e-2) for k in (3, 5)
    ]
    assert board["state"].to_list() == ["finished"] * 4
    assert board["shift"].is_sorted(descending=True)
    assert (folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    best = tomllib.loads((workspace.folder / "best.toml").read_text())
    assert best["student"]["learning_rate"] == board["student.learning_rate"][0]
    load_settings(str(workspace.folder / "best.toml"))
    # Base and teacher were asked by the first run alone.
    assert sum("--baseline" in path.read_text() for path in logs) == 3

    more = sweep(workspace, *AXES, "--set", "sweep.axes.student.learning_rate=[1e-3,1e-2,1e-4]")
    assert more.exit_code == 0, more.output
    assert "4 runs are finished, 2 to do" in more.output
    assert {path: path.stat().st_mtime_ns for path in logs} == logs


@pytest.mark.slow
def test_a_failed_run_is_named_and_retried_by_the_next_call(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0
    # Seven rows: a batch of 64 cannot be filled, one of 4 can.
    axes = ("--set", "sweep.axes.student.batch_rows=[4,64]")

    for _ in range(2):
        result = sweep(workspace, *axes)
        assert result.exit_code == 1
        assert "1 of 2 runs failed" in result.output
        assert "A batch has 64 rows, the cache 7" in result.output
    board = pl.read_parquet(workspace.folder / "sweep/leaderboard.parquet")
    assert sorted(board["state"]) == ["failed", "finished"]
    logs = (workspace.folder / "sweep").glob("runs/*.log")
    assert sorted(log.read_text().count("$ duet distill") for log in logs) == [1, 2]


@pytest.mark.slow
def test_another_cache_or_other_fixed_settings_are_another_sweep(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0
    axis = ("--set", "sweep.axes.student.seed=[0]")
    assert sweep(workspace, *axis).exit_code == 0

    result = sweep(workspace, *axis, "--set", "student.epochs=2")

    assert result.exit_code == 1
    assert "holds another sweep: settings_sha256 differ" in result.output


@pytest.mark.slow
def test_a_random_search_draws_from_the_range_and_goes_on(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0
    axis = ("--set", "sweep.axes.student.learning_rate={low=1e-4,high=1e-2,log=true}")
    random = (*axis, "--set", "sweep.sampler=random", "--set")

    assert sweep(workspace, *random, "sweep.trials=1").exit_code == 0
    assert sweep(workspace, *random, "sweep.trials=2").exit_code == 0

    rates = pl.read_parquet(workspace.folder / "sweep/leaderboard.parquet")["student.learning_rate"].to_list()
    assert len(set(rates)) == 2
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)

    again = sweep(workspace, *random, "sweep.trials=2")
    assert "2 runs are finished, 0 to do" in again.output
    other = sweep(workspace, "--set", "sweep.axes.student.epochs=[1,2]", *random[2:], "sweep.trials=2")
    assert other.exit_code == 1
    assert "holds another sweep: search differ" in other.output
