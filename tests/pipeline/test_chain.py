"""The three main commands in a row on the tiny model, as a user gives them: what they leave, reuse and refuse."""

import json
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest
from conftest import write_cache
from transformers import AutoModelForCausalLM
from workspace import FORGET, HELD_OUT, REQUESTS, RETAIN, Workspace, make_workspace, write_lines

from pipeline.audit_parts import PARTS
from stages.evaluation.attacks import ATTACKS
from stages.logit_cache.reader import LogitCache


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """Everything run once; read only."""
    workspace = make_workspace(tmp_path_factory.mktemp("finished"), tiny_model)
    for command in (workspace.teacher_cache, workspace.distill, workspace.evaluate):
        result = command()
        assert result.exit_code == 0, result.output
    return workspace


@pytest.mark.slow
def test_the_cache_holds_every_query_once_forget_first(finished: Workspace) -> None:
    rows = list(LogitCache(finished.cache).rows())

    assert [(row.split, row.query) for row in rows] == [
        *(("forget", query) for query in FORGET),
        *(("retain", query) for query in RETAIN),
    ]
    assert {row.topk_logits.shape[1] for row in rows} == {5}


@pytest.mark.slow
def test_the_exported_model_differs_from_the_base_and_loads(finished: Workspace) -> None:
    student = AutoModelForCausalLM.from_pretrained(finished.run / "model").state_dict()
    base = AutoModelForCausalLM.from_pretrained(finished.model).state_dict()

    assert {name: value.shape for name, value in student.items()} == {name: value.shape for name, value in base.items()}
    assert any((student[name] != base[name]).any() for name in base)


@pytest.mark.slow
def test_metrics_have_one_line_per_step_with_a_loss_per_split(finished: Workspace) -> None:
    lines = [json.loads(line) for line in (finished.run / "metrics.jsonl").read_text().splitlines()]

    assert [line["step"] for line in lines] == [0, 1]  # seven rows in batches of four
    assert all(line["loss_forget"] > 0 and line["loss_retain"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert list((finished.run / "tensorboard").iterdir())


@pytest.mark.slow
def test_the_evaluation_is_tidy_and_keeps_every_answer(finished: Workspace) -> None:
    evaluation = json.loads(finished.evaluation.read_text())
    scores = pl.DataFrame(evaluation["scores"])

    assert {"model", "file", "attack", "metric", "mean", "low", "high", "n"} <= set(scores.columns)
    assert set(scores["model"]) == {"base", "teacher", "student"}
    assert scores.group_by("model", "file", "attack", "metric").len()["len"].max() == 1
    questions = sum(map(len, HELD_OUT.values()))
    # Each model on each question, and on the forget file behind the reverse prompt.
    assert len(evaluation["answers"]) == 3 * (questions + len(HELD_OUT["forget"]))
    assert {score["attack"] for score in evaluation["scores"] if score["delta"] is not None} == {"reverse"}
    assert evaluation["performance_shift"]["value"] is None
    assert "mmlu" in evaluation["performance_shift"]["not_measured"]
    assert list(evaluation["performance_shift"]["stand_ins"]) == ["general"]
    assert {(each["model"], each["n"]) for each in evaluation["choices"]} == {("base", 4), ("student", 4)}
    # The ten likeliest first tokens of every question: two files of two, three models.
    assert [len(each["tokens"]) for each in evaluation["first_tokens"]] == [10] * 12
    assert evaluation["leaks"] == [] and evaluation["not_measured"]["leak@k"] == "evaluation.samples is 0"


@pytest.mark.slow
def test_an_audit_makes_what_it_can_and_says_what_is_left_out_and_why(finished: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    result = finished.duet(
        "audit", "--config", finished.settings, "--set", "evaluation.samples=4", "--without", "relearning",
        "--model", finished.run / "model", "--control", finished.model, "--out", out,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    audit = json.loads(out.read_text())
    lacking = {"few_shot", "answer_begun", "completion", "other_language", "multiple_choice"}
    left_out = {"relearning", "relearning_answers", "leak@k, teacher", "multiple choice by likelihood, teacher"}
    assert set(audit["not_measured"]) == {f"attack {name}" for name in lacking} | left_out
    assert audit["relearning"] is None and audit["not_measured"]["relearning"] == "left out by --without relearning"
    assert audit["not_measured"]["attack few_shot"] == "forget: no file under evaluation.revealing"
    made = {answer["attack"] for answer in audit["answers"]} - {None}
    assert made == set(ATTACKS) - lacking
    assert [(each["model"], each["k"]) for each in audit["leaks"]] == [
        (model, k) for model in ("base", "student", "control") for k in (1, 2, 4)
    ]
    assert all(len(each["answers"]) == 4 for each in audit["samples"])
    fluent = {(s["model"], s["file"]) for s in audit["scores"] if s["metric"] == "perplexity" and s["mean"] >= 1}
    assert len(fluent) == 8
    # The control of this test is the base itself, so it says what the base says.
    said = [[a["answer"] for a in audit["answers"] if a["model"] == role] for role in ("base", "control")]
    assert said[0] == said[1]
    assert {(each["weights"], each["file"]) for each in audit["quantisation"]} == {
        (weights, file) for weights in ("int8", "int4") for file in HELD_OUT
    }
    assert all(each["delta"] is not None for each in audit["quantisation"])
    layers = {each["layer"] for each in audit["lens"] if each["model"] == "student"}
    assert layers == set(range(max(layers) + 1)) and len(layers) > 2
    assert {each["layer"] for each in audit["weight_change"]} >= {"embeddings", "0", "final_norm"}
    assert {each["expected"] for each in audit["membership"]} == {50.0}
    followed = audit["instructions"]
    assert [(each["model"], each["request"], each["kind"]) for each in followed] == [
        (model, *request) for model in ("base", "student", "control") for request in REQUESTS
    ]
    assert all(each["tokens"] <= 5 and (each["answer"] == "") == (each["log_probability"] is None) for each in followed)
    assert [each["answer"] for each in followed[:3]] == [each["answer"] for each in followed[6:]]
    assert not out.with_suffix(".parts").exists()
    again = finished.duet(
        "audit", "--config", finished.settings, "--set", "evaluation.samples=4", "--without", "relearning",
        "--model", finished.run / "model", "--control", finished.model, "--out", out,
    )  # fmt: skip
    assert "holds this evaluation already" in again.output
    spent = set(audit["run"]["seconds_of_parts"])
    assert {"answers, student", "answers, control", "samples, base", "choices, student", "fluency, base"} <= spent
    other = finished.duet(
        "audit", "--config", finished.settings, "--set", "evaluation.samples=4", "--model", finished.run / "model",
        "--control", finished.model, "--baseline", out, "--out", tmp_path / "other.json",
        *(word for part in PARTS if part not in ("instructions", "lens") for word in ("--without", part)),
    )  # fmt: skip
    assert other.exit_code == 0, other.output
    taken_over = json.loads((tmp_path / "other.json").read_text())
    # The student's own likelihoods were computed in another batch, and rounded otherwise.
    for key in ("scores", "leaks", "membership"):
        one, again = ([row for row in found[key] if row["model"] != "student"] for found in (audit, taken_over))
        assert one and one == again, key
    assert sorted(taken_over["lens"], key=str) == sorted(audit["lens"], key=str)
    assert [each for each in taken_over["instructions"] if each["model"] != "student"] == followed[:3] + followed[6:]
    assert {key for key in taken_over["run"]["seconds_of_parts"] if key.startswith("answers")} == {"answers, student"}


@pytest.mark.slow
def test_the_model_card_names_the_cache_and_shows_the_scores(finished: Workspace) -> None:
    card = (finished.run / "model/README.md").read_text()

    assert LogitCache(finished.cache).manifest.cache_id in card
    assert "Not evaluated yet" not in card
    assert "| forget | ROUGE-L recall ↓ | 2 |" in card


@pytest.mark.slow
def test_a_second_call_of_each_command_runs_nothing(finished: Workspace) -> None:
    def contents() -> dict[Path, tuple[int, int]]:
        files = (path for path in finished.folder.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = contents()
    results = [finished.teacher_cache(), finished.distill(), finished.evaluate()]

    assert [result.exit_code for result in results] == [0, 0, 0]
    assert "finished already" in results[0].output
    assert "finished already" in results[1].output
    assert "holds this evaluation already" in results[2].output
    assert contents() == before


@pytest.mark.slow
def test_outputs_of_other_settings_are_refused_and_left(finished: Workspace) -> None:
    for result, what in (
        (finished.teacher_cache("--set", "teacher.top_k=4"), "top_k: 5 → 4"),
        (finished.distill("--set", "student.seed=1"), "holds another run"),
        (finished.evaluate("--set", "evaluation.max_tokens=5"), "holds another evaluation"),
    ):
        assert result.exit_code == 1
        assert what in result.output
    assert finished.distill().exit_code == 0


@pytest.mark.slow
def test_an_earlier_baseline_is_taken_over_and_one_of_another_prefix_is_refused(
    finished: Workspace, tmp_path: Path
) -> None:
    def again(*more: object) -> object:
        common = ("--config", finished.settings, "--model", finished.run / "model", "--baseline", finished.evaluation)
        return finished.duet("evaluate", *common, *more)

    assert again("--out", tmp_path / "same.json").exit_code == 0  # type: ignore[attr-defined]
    same, first = (json.loads(path.read_text()) for path in (tmp_path / "same.json", finished.evaluation))
    assert same["scores"] == first["scores"]

    other = tmp_path / "prefix.json"
    other.write_text(json.dumps({"system": "You have forgotten nothing."}))
    refused = again("--out", tmp_path / "other.json", "--set", f"data.prefix={other}")
    assert refused.exit_code == 2  # type: ignore[attr-defined]
    assert "another base model, prefix" in refused.output  # type: ignore[attr-defined]
    assert not (tmp_path / "other.json").exists()


@pytest.mark.slow
def test_compare_and_ask_work_on_what_the_chain_left(finished: Workspace) -> None:
    table = finished.duet("compare", finished.evaluation)
    seeds = finished.duet("compare", "--mean", finished.evaluation)
    asked = finished.duet("ask", "--model", finished.run / "model", "--max-tokens", 3, "What is the capital of Peru?")

    assert [each.exit_code for each in (table, seeds, asked)] == [0, 0, 0]
    assert "| base + prefix (teacher) |" in table.output
    assert "| Forgotten | not measured |" in seeds.output
    assert asked.output.startswith("> What is the capital of Peru?\n")


@pytest.mark.slow
def test_the_report_tells_what_the_chain_left(finished: Workspace, tmp_path: Path) -> None:
    for path in (finished.evaluation, finished.run / "run.json", finished.run / "metrics.jsonl"):
        shutil.copy(path, tmp_path)
    result = finished.duet("report", "--run", tmp_path)

    assert result.exit_code == 0, result.output
    card = (tmp_path / "report.md").read_text(encoding="utf-8")
    cache = LogitCache(finished.cache).manifest
    assert f"| cache id | {cache.cache_id} |" in card
    # Three forget queries and four retain queries, of which the cache's manifest tells.
    assert "| queries to the teacher, forget and retain | 3 + 4 |" in card
    assert "**Quantisation** not measured: " in card
    for row in json.loads(finished.evaluation.read_text())["choices"]:
        assert f"{row['mean']:.1f} [{row['low']:.1f},\u00a0{row['high']:.1f}]" in card


@pytest.mark.slow
def test_a_topic_for_a_base_model_without_a_chat_template_runs_as_plain_text(workspace: Workspace) -> None:
    result = workspace.teacher_cache("--set", "model.template=plain")

    assert result.exit_code == 0, result.output
    row = next(LogitCache(workspace.cache).rows())
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(workspace.model).decode(row.student_input_ids).startswith("Question: ")


@pytest.mark.parametrize(
    ("name", "records", "message"),
    [
        ("forget", [{"query": "Where?", "answer": "There"}], "training files hold queries only"),
        ("forget", [{"query": "  "}], "has an empty query"),
        ("retain", [{"query": "Why?"}, {"query": "why? "}], "repeats the query"),
        ("retain", [{"query": FORGET[0]}], "repeats the query"),
    ],
)
def test_bad_queries_are_refused_before_a_model_is_loaded(
    workspace: Workspace, name: str, records: list[dict[str, str]], message: str
) -> None:
    write_lines(workspace.folder / f"{name}.jsonl", records)

    result = workspace.teacher_cache()

    assert result.exit_code == 1
    assert message in result.output
    assert not workspace.cache.exists()


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("teacher.topk=5", 2, "there is no such setting"),
        ("teacher.top_k=600", 2, "the vocabulary of"),
        ("teacher.positions=2000", 1, "Nothing is truncated"),
        ("data.forget=nowhere.jsonl", 1, "cannot be read"),
        ("data.prefix=nowhere.json", 1, "cannot be read"),
        ("model.path=./nowhere", 1, "There is no model folder"),
        ("model.dtype=float8", 2, "model.dtype"),
    ],
)
def test_bad_settings_get_one_message_and_leave_no_cache(
    workspace: Workspace, override: str, code: int, message: str
) -> None:
    result = workspace.teacher_cache("--set", override)

    assert result.exit_code == code
    assert message in result.output
    assert result.output.count("Error") == 1
    assert "Traceback" not in result.output
    assert not workspace.cache.exists()


def test_debug_adds_the_traceback(workspace: Workspace) -> None:
    result = workspace.duet("--debug", "teacher-cache", "--config", workspace.folder / "no.toml", "--out", "nowhere")

    assert result.exit_code == 2
    assert "cannot be read" in result.output


def test_distill_refuses_an_unfinished_cache_and_one_of_another_tokenizer(workspace: Workspace) -> None:
    unfinished = workspace.distill()
    write_cache(workspace.cache)
    foreign = workspace.distill()

    assert (unfinished.exit_code, foreign.exit_code) == (1, 1)
    assert "is not a folder" in unfinished.output
    assert "was written with tokenizer bbbbbbbbbbbb…" in foreign.output
    assert "make teacher-cache" in foreign.output
    assert not workspace.run.exists()


def test_a_run_folder_that_holds_something_else_is_left(workspace: Workspace, tiny_model: Path) -> None:
    assert workspace.teacher_cache().exit_code == 0
    workspace.run.mkdir()
    (workspace.run / "notes.txt").write_text("mine")

    result = workspace.distill()

    assert result.exit_code == 1
    assert "already holds something that is not a run" in result.output
    assert [path.name for path in workspace.run.iterdir()] == ["notes.txt"]


def test_a_flipped_byte_in_a_shard_stops_the_training(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0
    shard = next((workspace.cache / "shards").glob("*.parquet"))
    shard.chmod(0o644)
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)

    result = workspace.distill()

    assert result.exit_code == 1
    assert "has another SHA-256 than the manifest says" in result.output
    assert not workspace.run.exists()


def test_more_positions_than_were_captured_are_refused(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0

    result = workspace.distill("--set", "student.retain_positions=3")

    assert result.exit_code == 1
    assert "student.retain_positions is 3, and" in result.output
    assert "holds 2 per row" in result.output


def test_the_next_command_is_whole_and_can_be_copied(workspace: Workspace) -> None:
    cache = workspace.folder / "my cache"

    result = workspace.duet(
        "teacher-cache", "--config", workspace.settings, "--set", "data.licence=for us alone", "--out", cache
    )

    (told,) = [line for line in result.output.splitlines() if line.startswith("Next:  duet ")]
    expected = ["distill", "--config", workspace.settings, "--set", "data.licence=for us alone", "--cache", cache]
    assert shlex.split(told)[2:] == [*map(str, expected), "--out", "runs/my cache"]


def test_a_setting_of_the_capture_that_the_cache_does_not_have_is_told_of(workspace: Workspace) -> None:
    assert workspace.teacher_cache().exit_code == 0

    result = workspace.distill("--set", "teacher.top_k=3")

    assert result.exit_code == 0
    assert f"Warning: teacher.top_k is 3, and {workspace.cache} holds 5" in result.output
    assert "teacher.positions" not in result.output
