"""Means over seeds, worked out by hand; and the page of results made from files."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from pipeline.cli import duet
from pipeline.seeds import seed_tables

DAY = "2026-05-04T10:00:00+00:00"
SHIFT = {"value": None, "parts": {"forget": 5.0}, "sum_of_measured": 5.0, "not_measured": ["mmlu"]}


def audit(seed: int, student: float, **more: Any) -> dict[str, Any]:
    own = {"file": "forget", "attack": None, "metric": "rouge_l_recall", "n": 9, "supplies_answer": False}
    scores = [
        {**own, "model": model, "mean": mean, "low": mean - 1, "high": mean + 1}
        for model, mean in (("base", 50.0), ("teacher", 20.0), ("student", student))
    ]
    scores += [{**score, "metric": "degenerate_rate", "mean": 0.0} for score in scores]
    attacked = {**own, "attack": "reverse", "model": "student", "mean": student + 2, "low": 0.0, "high": 9.0}
    curve = [
        {"model": "student", "file": "half", "trained_on": "forget", "step": step, "metric": "rouge_l_recall",
         "mean": student + step, "low": 0.0, "high": 9.0, "n": 4}
        for step in (0, 8)
    ]  # fmt: skip
    settings = {"student": {"seed": seed}, "evaluation": {"forget_files": ["forget"]}}
    return {
        "scores": [*scores, {**attacked, "delta": 2.0 * seed, "delta_low": 0.0, "delta_high": 4.0}],
        "relearning": curve,
        "performance_shift": SHIFT,
        "answers": [],
        "not_measured": {"quantisation": "no room"},
        "run": {
            "settings": settings,
            "base": "small",
            "hardware": "2 cores",
            "inputs": {"base": "b"},
            "finished_at": DAY,
            "student": "made",
            "seconds": 1.0,
            "duet_version": "0.1.0",
        },
        **more,
    }


def test_what_differs_between_seeds_has_its_least_and_most_and_what_does_not_stands_alone() -> None:
    lines = list(seed_tables([audit(1, 6.0), audit(2, 9.0)]))

    assert "| forget | ROUGE-L recall ↓ | 9 | 50.0 | 20.0 | 7.5 (6.0 – 9.0) |" in lines
    assert "| forget | reverse | 9 | – | – | 9.5 (8.0 – 11.0), Δ +3.0 |" in lines
    assert "| half | forget | 8 | 4 | – | – | 15.5 (14.0 – 17.0) |" in lines
    assert "Not measured: quantisation (no room)." in lines
    assert "Points (0–100). Model small, seeds 1, 2, 2 cores, 2026-05-04." in lines
    assert "| clause of the verdict | seed 1 | seed 2 |" in lines
    assert "| Forgotten | not measured | not measured |" in lines
    assert any(line.startswith("- Seed 1: Whether anything was forgotten cannot be read") for line in lines)


def test_a_change_over_seeds_says_in_how_many_its_interval_lies_above_zero() -> None:
    found = [audit(seed, 6.0) for seed in (1, 2, 3)]
    for each, low in zip(found, (-1.0, 0.5, 2.0), strict=True):
        each["scores"][-1]["delta_low"] = low
    lines = list(seed_tables(found))

    assert "| forget | reverse | 9 | – | – | 8.0, Δ +4.0 (above 0 in 2 of 3) |" in lines


def test_moved_weights_and_seconds_have_their_tables() -> None:
    layer = {"layer": "0", "norm": 0.5, "relative": 0.001}
    run = {**audit(1, 6.0)["run"], "seconds": 90.0, "seconds_of_parts": {"questions": 80.0, "answers, student": 61.4}}
    lines = list(
        seed_tables([audit(1, 6.0, weight_change=[layer, {**layer, "layer": "1", "relative": None}], run=run)])
    )

    assert "| 0 | 0.500 | 0.100 |" in lines and "| 1 | 0.500 | – |" in lines
    assert "| answers, student | 61 |" in lines and not any("questions | 80" in line for line in lines)


def test_one_seed_keeps_its_intervals() -> None:
    lines = list(seed_tables([audit(1, 6.0)]))

    assert "| forget | ROUGE-L recall ↓ | 9 | 50.0 [49, 51] | 20.0 [19, 21] | 6.0 [5, 7] |" in lines
    assert "| forget | reverse | 9 | – | – | 8.0 [0, 9], Δ +2.0 [+0, +4] |" in lines


def write(folder: Path, seed: int, found: dict[str, Any]) -> None:
    (folder / f"seed-{seed}").mkdir(parents=True)
    (folder / f"seed-{seed}/audit.json").write_text(json.dumps(found))


def test_the_page_has_a_section_per_topic_with_all_its_seeds(tmp_path: Path) -> None:
    for seed, student in ((0, 4.0), (1, 8.0)):
        write(tmp_path / "towns", seed, audit(seed, student))
    out = tmp_path / "RESULTS.md"
    result = CliRunner().invoke(duet, ["results", f"towns={tmp_path / 'towns'}", "--out", str(out)])

    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "## towns" in text and "6.0 (4.0 – 8.0)" in text and "seeds 0, 1" in text


def test_a_topic_that_is_not_named_stays_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "RESULTS.md"
    for topic, student in (("towns", 4.0), ("rivers", 5.0), ("towns", 6.0)):
        path = tmp_path / f"{topic}-{student}"
        write(path, 0, audit(0, student))
        result = CliRunner().invoke(duet, ["results", f"{topic}={path}", "--out", str(out)])
        assert result.exit_code == 0, result.output

    text = out.read_text()
    assert text.count("# Results\n") == text.count("## towns\n") == text.count("## rivers\n") == 1
    towns, rivers = text.split("## rivers")
    assert " 6.0 [5, 7] |" in towns and " 4.0 [3, 5] |" not in towns
    assert "5.0 [4, 6]" in rivers
    # Written again, it is the same to the byte.
    CliRunner().invoke(duet, ["results", f"rivers={tmp_path / 'rivers-5.0'}", "--out", str(out)])
    assert out.read_text() == text


def test_audits_that_differ_in_more_than_their_seed_make_no_page(tmp_path: Path) -> None:
    write(tmp_path / "towns", 0, audit(0, 4.0))
    other = audit(1, 4.0)
    other["run"]["settings"]["student"]["epochs"] = 9
    write(tmp_path / "towns", 1, other)
    out = tmp_path / "RESULTS.md"
    thesis = tmp_path / "thesis.md"
    thesis.write_text("# Thesis\n\n## towns\nyears of work\n")
    result = CliRunner().invoke(duet, ["results", f"towns={tmp_path / 'towns'}", "--out", str(thesis)])
    assert result.exit_code == 1 and "is not a page" in result.output and "years of work" in thesis.read_text()
    for topics, message in (
        ([f"towns={tmp_path / 'towns'}"], "The runs differ in student.epochs"),
        ([f"towns={tmp_path}"], "names no audit"),
        (["towns"], "is not NAME=FOLDER"),
    ):
        result = CliRunner().invoke(duet, ["results", *topics, "--out", str(out)])
        assert result.exit_code == 1 and message in result.output
        assert not out.exists()
