"""Files of a run: what is read, what an older version lacks, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich_audit import rich_audit, run_record, steps
from workspace import write_lines

from stages.errors import DataError
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.reading import load_audit, load_metrics, load_training


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_an_audit_is_read_with_its_models_and_files_in_order(tmp_path: Path) -> None:
    audit = load_audit(written(tmp_path / "audit.json", rich_audit()))

    assert audit.roles == ("base", "teacher", "student", "control")
    assert audit.forget_files == ("forget", "forget_paraphrase")
    assert audit.kept_files == ("neighbours", "retain")
    assert len(audit.relearning or ()) == 20


def test_an_evaluation_of_an_older_version_lacks_parts_and_nothing_becomes_zero(tmp_path: Path) -> None:
    old = {
        key: value for key, value in rich_audit().items() if key in ("scores", "performance_shift", "answers", "run")
    }
    for row in old["scores"]:
        for key in ("delta", "delta_low", "delta_high", "supplies_answer"):
            del row[key]
    for row in old["answers"]:
        for key in ("number", "exact", "in_full", "asked", "answer_start", "log_probability"):
            del row[key]
    audit = load_audit(written(tmp_path / "evaluation.json", old))

    assert audit.leaks is audit.lens is audit.membership is None
    assert audit.scores[0].delta is None


def test_the_change_that_an_older_file_lacks_is_what_a_newer_one_holds(tmp_path: Path) -> None:
    new = rich_audit()
    old = json.loads(json.dumps(new))
    for row in old["scores"]:
        row["delta"] = row["delta_low"] = row["delta_high"] = None
    found = [load_audit(written(tmp_path / f"{name}.json", each)) for name, each in (("new", new), ("old", old))]

    for score in found[0].scores:
        if score.attack == "few_shot" and score.metric == "rouge_l_recall":
            older = Answers(found[1]).score(score.model, score.file, score.attack)
            assert older is not None
            assert Answers(found[1]).change_by(older) == Answers(found[0]).change_by(score)


def broken(place: str) -> Any:
    audit = rich_audit()
    match place:
        case "role":
            audit["scores"][0]["model"] = "nobody"
        case "scores":
            audit["scores"] = []
        case "figure":
            audit["leaks"][0]["mean"] = "much"
        case "forget_files":
            del audit["run"]["settings"]["evaluation"]["forget_files"]
        case "list":
            return [audit]
    return audit


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("role", "malformed at scores.0.model"),
        ("scores", "malformed at scores: Tuple should have at least 1 item"),
        ("figure", "malformed at leaks.0.mean"),
        ("forget_files", "does not say which question files are to be forgotten"),
        ("list", "malformed at the file as a whole"),
    ],
)
def test_a_malformed_audit_is_refused_with_the_place(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_audit(written(tmp_path / "audit.json", broken(place)))


@pytest.mark.parametrize("text", ["", "{", '{"scores": NaN}', "\udcff"])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(DataError, match=r"is not JSON|cannot be read"):
        load_audit(path)


def test_training_and_its_metrics_are_read_where_they_are(tmp_path: Path) -> None:
    assert load_training(tmp_path / "run.json") is None
    assert load_metrics(tmp_path / "metrics.jsonl") == ()

    training = load_training(written(tmp_path / "run.json", run_record()))
    read = load_metrics(write_lines(tmp_path / "metrics.jsonl", steps(5)))
    assert training is not None
    assert training.joules is None
    assert [step.step for step in read] == [0, 1, 2, 3, 4]
    assert read[3].loss_retain is None
