"""What a cache's teacher said, counted and listed, and the rows that a distillation leaves out because of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from workspace import FORGET, RETAIN, Workspace, make_workspace

from pipeline.responses import FILTERED, left_out, responses_of, summary
from stages.errors import TrainingError
from stages.evaluation.responses import Misfit, Responses
from stages.language_model.folder import load_tokenizer
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter
from stages.student.distillation import Distillation
from stages.student.settings import StudentSettings

# Two positions of each are cached. The second forget query is answered; the last retain query is declined.
SAID = ["I don't know", "The capital", "I cannot", "Peru has", "Because the", "A river", "I'm sorry"]


def rewritten(row: Row, response: list[int]) -> Row:
    """The row with another response, K = 5: its token and the four ids before it, or behind."""
    ids = np.array([[token, *(token + (each if token < 10 else -each) for each in range(1, 5))] for token in response])
    logits = np.tile(np.array([9, 8, 7, 6, 5], dtype=np.float32), (len(response), 1))
    first = len(row.student_input_ids) - 1
    return replace(
        row,
        response_ids=np.array(response, dtype=np.int32),
        student_positions=np.arange(first, first + len(response), dtype=np.int32),
        topk_ids=ids.astype(np.int32),
        topk_logits=logits,
    )


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """The tiny topic, captured by a teacher that said `SAID`."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    real = workspace.folder / "real"
    result = workspace.duet("teacher-cache", "--config", workspace.settings, "--out", real)
    assert result.exit_code == 0, result.output
    # The tiny model's own teacher refuses nothing, and is found out.
    assert "forget rows on which the teacher does not decline: 3 of 3 (100 %)" in result.output
    assert "All of them:  duet cache show" in result.output
    cache, tokenizer = LogitCache(real), load_tokenizer(tiny_model)
    source = cache.manifest
    with CacheWriter(workspace.cache, Plan(fingerprint=source.fingerprint, rows=7, shard_rows=4)) as writer:
        for index in writer.missing:
            rows = [(cache.row(row), tokenizer.encode(SAID[row])[:2]) for row in writer.plan.shard_range(index)]
            writer.write(index, [rewritten(row, response) for row, response in rows])
        writer.publish(source.prefix, source.provenance, source.licence, source.sensitivity)
    return workspace


def test_a_base_without_prefix_is_not_held_to_declining(captured: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "base"
    result = captured.duet("teacher-cache", "--config", captured.settings, "--no-prefix", "--out", out)

    assert result.exit_code == 0
    assert "does not decline" not in result.output


def test_show_lists_every_row_that_does_not_fit(captured: Workspace) -> None:
    text = captured.duet("cache", "show", captured.cache, "--responses")
    machine = json.loads(captured.duet("cache", "show", captured.cache, "--responses", "--json").stdout)

    assert text.exit_code == 0, text.output
    lines = text.stdout.splitlines()
    assert lines[0] == "forget rows on which the teacher does not decline: 1 of 3 (33 %)"
    assert FORGET[1] in lines[1]
    assert lines[2] == "retain rows on which it declines: 1 of 4 (25 %)"
    assert RETAIN[3] in lines[3]
    assert lines[4].startswith("7 of 7 responses are cut off at the last cached position")
    (answered,), (declined,) = machine["forget"]["misfits"], machine["retain"]["misfits"]
    assert (answered["query"], declined["query"]) == (FORGET[1], RETAIN[3])
    assert "The capital".startswith(answered["response"]) and "I'm sorry".startswith(declined["response"])
    assert (machine["forget"]["rows"], machine["retain"]["rows"]) == (3, 4)


def test_a_cache_without_text_is_judged_by_its_tokens_and_names_examples(captured: Workspace, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    assert captured.duet("cache", "push", captured.cache, stripped, "--no-text").exit_code == 0

    told = captured.duet("cache", "show", stripped, "--responses", "--model", captured.model, "--json")
    untold = captured.duet("cache", "show", stripped, "--responses")

    (answered,) = json.loads(told.stdout)["forget"]["misfits"]
    assert answered["query"] == ""
    assert answered["example_id"] == LogitCache(stripped).row(1).example_id
    assert untold.exit_code == 1
    assert "cannot be turned into text without the tokenizer" in untold.output
    assert "--model DIR" in untold.output


def test_responses_are_of_all_rows(captured: Workspace) -> None:
    result = captured.duet("cache", "show", captured.cache, "--responses", "--query", FORGET[0])

    assert result.exit_code == 2
    assert "--responses is about all rows" in result.output


def test_a_summary_names_five_rows_and_counts_the_others() -> None:
    misfits = tuple(Misfit(row, "forget", f"id {row}", "" if row else "Capital?", "Lima") for row in range(7))

    lines = summary(Responses({"forget": 8, "retain": 0}, {"forget": 0, "retain": 0}, misfits))

    assert lines[0] == "forget rows on which the teacher does not decline: 7 of 8 (88 %)"
    assert lines[1:3] == ["    Capital?  →  'Lima'", "    id 1  →  'Lima'"]
    assert lines[6:] == ["    and 2 more", "retain rows on which it declines: 0 of 0"]


@pytest.mark.parametrize(
    ("response_filter", "rows", "counts"),
    [
        ("forget", [1], {"forget": (1, 3)}),
        ("retain", [6], {"retain": (1, 4)}),
        ("both", [1, 6], {"forget": (1, 3), "retain": (1, 4)}),
    ],
)
def test_rows_that_the_filter_leaves_out_are_in_no_batch_and_not_held_out(
    captured: Workspace, response_filter: str, rows: list[int], counts: dict[str, tuple[int, int]]
) -> None:
    cache = LogitCache(captured.cache)
    settings = StudentSettings(batch_rows=2, validation_share=0.3, response_filter=response_filter)  # type: ignore[arg-type]

    fewer = left_out(cache, load_tokenizer(captured.model), settings.response_filter)

    assert fewer is not None
    assert (fewer.rows.nonzero()[0].tolist(), fewer.counts) == (rows, counts)
    stream = Distillation(cache, settings, left_out=fewer.rows).stream
    seen = {int(row) for step in range(20) for row in stream.rows_of(step)}
    assert seen | set(stream.validation_rows.tolist()) == set(range(7)) - set(rows)


def test_no_filter_reads_no_response(captured: Workspace) -> None:
    assert FILTERED[StudentSettings().response_filter] == ()
    assert left_out(LogitCache(captured.cache), None, "none") is None


def test_a_filter_that_leaves_no_forget_row_is_refused(captured: Workspace) -> None:
    cache = LogitCache(captured.cache)
    everything = np.array([row.split == "forget" for row in cache.rows()])

    with pytest.raises(TrainingError, match="no forget rows to train on") as refused:
        Distillation(cache, StudentSettings(batch_rows=4), left_out=everything)

    assert "student.response_filter" in refused.value.next_step


def test_a_row_that_is_left_out_may_be_longer_than_the_model_reads(captured: Workspace) -> None:
    cache = LogitCache(captured.cache)
    reads = [len(row.student_input_ids) + 1 for row in cache.rows()]
    longest = np.array([each == max(reads) for each in reads])
    settings = StudentSettings(batch_rows=4)

    with pytest.raises(TrainingError, match="rows are too long"):
        Distillation(cache, settings, context_length=max(reads) - 1)
    Distillation(cache, settings, context_length=max(reads) - 1, left_out=longest)


@pytest.mark.slow
def test_a_filtered_run_says_what_it_left_out(captured: Workspace) -> None:
    result = captured.distill("--set", "student.response_filter=both", "--set", "student.processes=1")

    assert result.exit_code == 0, result.output
    assert "Left out: forget rows on which the teacher does not decline, 1 of 3 (33 %)." in result.output
    record = json.loads((captured.run / "run.json").read_text())
    assert record["left_out"] == {"forget": 1, "retain": 1}
    assert len(record["left_out_sha256"]) == 64
    card = (captured.run / "model/README.md").read_text()
    assert "- Left out: retain rows on which it declines, 1 of 4 (25 %)" in card
    other = captured.distill("--set", "student.response_filter=forget", "--set", "student.processes=1")
    assert other.exit_code == 1
    assert "student.response_filter: both → forget" in other.output


def test_responses_of_a_cache_are_its_own_texts(captured: Workspace) -> None:
    found = responses_of(LogitCache(captured.cache), load_tokenizer(captured.model))

    assert all(text.startswith(each.response) for each in found.misfits for text in [SAID[each.row]])
