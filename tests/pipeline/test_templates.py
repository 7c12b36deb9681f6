"""A chat template from capture to evaluation: one day, one form, one question, whatever the model's template is like."""

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils
from workspace import Workspace, make_workspace

from pipeline import hearing
from stages.logit_cache.manifest import read_manifest
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.logit_cache.writer import CacheWriter

MESSAGES = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "Today is {{ date_string if date_string is defined else strftime_now('%d %b %Y') }}.\n" + MESSAGES
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + MESSAGES
)
THINKS = MESSAGES.replace("assistant\n{% endif %}", "assistant\n{{ '' if '</think>' else '' }}{% endif %}")
NO_QUERY = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'][0]['words'] }}<|im_end|>\n{% endfor %}"


def with_template(folder: Path, model: Path, template: str) -> Workspace:
    """A workspace whose model has this chat template."""
    copy = folder / "model"
    shutil.copytree(model, copy)
    (copy / "chat_template.jinja").write_text(template)
    return make_workspace(folder, copy)


def on(monkeypatch: pytest.MonkeyPatch, day: datetime) -> None:
    """From now on, what templates are told without us."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return day

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def ids_of(cache: Path) -> list[list[int]]:
    return [row.student_input_ids.tolist() for row in LogitCache(cache).rows()]


def test_a_capture_that_midnight_interrupts_ends_as_one_that_it_did_not(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = with_template(tmp_path, tiny_model, DATED)
    on(monkeypatch, datetime(2026, 3, 1, 23, 59))
    assert workspace.duet("teacher-cache", "--config", workspace.settings, "--out", tmp_path / "whole").exit_code == 0
    write = CacheWriter.write

    def killed(writer: CacheWriter, index: int, rows: Sequence[Row]) -> None:
        write(writer, index, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(CacheWriter, "write", killed)
    assert workspace.teacher_cache().exit_code != 0
    monkeypatch.setattr(CacheWriter, "write", write)
    assert len(list((workspace.cache / "shards").iterdir())) == 1

    on(monkeypatch, datetime(2026, 3, 2, 0, 1))
    again = workspace.teacher_cache()

    assert again.exit_code == 0 and "1 of 2 shards are there" in again.output, again.output
    assert read_manifest(workspace.cache).cache_id == read_manifest(tmp_path / "whole").cache_id
    assert ids_of(workspace.cache) == ids_of(tmp_path / "whole")


def test_another_date_is_another_cache_and_does_not_go_on_with_the_first(tmp_path: Path, tiny_model: Path) -> None:
    workspace = with_template(tmp_path, tiny_model, DATED)
    assert workspace.teacher_cache().exit_code == 0

    for change in ("model.template_date=2027-01-05", "model.template_variables.date_string=some day"):
        other = workspace.teacher_cache("--set", change)
        assert other.exit_code == 1
        assert "another plan" in other.output and "template_sha256" in other.output, other.output
        beside = tmp_path / change[-4:]
        workspace.duet("teacher-cache", "--config", workspace.settings, "--out", beside, "--set", change)
        merged = workspace.duet("cache", "merge", workspace.cache, beside, "--out", tmp_path / "merged")
        assert merged.exit_code == 1 and "template_sha256" in merged.output, merged.output
        # What was captured for one day is not trained for another.
        trained = workspace.distill("--set", change)
        assert trained.exit_code == 1 and "another date or switch" in trained.output, trained.output
        assert not workspace.run.exists()


def test_verify_finds_prompts_that_are_not_those_of_the_manifest(tmp_path: Path, tiny_model: Path) -> None:
    workspace = with_template(tmp_path, tiny_model, DATED)
    workspace.teacher_cache()
    other = tmp_path / "other"
    workspace.duet(
        "teacher-cache", "--config", workspace.settings, "--out", other, "--set", "model.template_date=2027-01-05"
    )
    fingerprints = [read_manifest(each).fingerprint for each in (workspace.cache, other)]

    assert workspace.duet("cache", "verify", workspace.cache).exit_code == 0
    assert fingerprints[0].student_prompts_sha256 != fingerprints[1].student_prompts_sha256
    assert fingerprints[0].teacher_prompts_sha256 != fingerprints[1].teacher_prompts_sha256


def test_a_student_is_not_asked_on_another_day_than_it_was_trained_on(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = with_template(tmp_path, tiny_model, DATED)
    monkeypatch.setattr(hearing, "in_own_process", lambda function, *arguments: function(*arguments))
    assert workspace.teacher_cache().exit_code == 0
    trained = workspace.distill()
    assert trained.exit_code == 0, trained.output

    other = workspace.evaluate("--set", "model.template_date=2027-01-05")
    assert other.exit_code == 2 and "was trained through another chat template" in other.output, other.output
    assert not workspace.evaluation.exists()
    asked = workspace.evaluate()
    assert asked.exit_code == 0, asked.output
    # To ask it freely is no measurement: it is said, and done.
    words = "was trained through another template, date or switch"
    for more, is_said in ((), False), (("--template", "plain"), True):
        freely = workspace.duet("ask", "--model", workspace.run / "model", "--max-tokens", 1, *more, "Why?")
        assert freely.exit_code == 0 and (words in freely.output) == is_said, freely.output
    # Answers of another day are no baseline.
    later = workspace.duet(
        "evaluate", "--config", workspace.settings, "--model", workspace.model, "--out", tmp_path / "later.json",
        "--baseline", workspace.evaluation, "--set", "model.template_date=2027-01-05",
    )  # fmt: skip
    assert later.exit_code == 2 and "made with another base model" in later.output, later.output


def test_a_model_without_a_system_role_is_captured_and_says_so_once(tmp_path: Path, tiny_model: Path) -> None:
    workspace = with_template(tmp_path, tiny_model, NO_SYSTEM)

    done = workspace.teacher_cache()

    assert done.exit_code == 0, done.output
    assert done.output.count("has no system role: a system sentence opens the first user turn") == 1
    text = read_manifest(workspace.cache).prefix.text
    assert text.startswith("<|im_start|>user\nYou have forgotten all capital cities.\n\nWhat is the capital of Poland?")


@pytest.mark.parametrize("command", ["teacher-cache", "prefixes", "ask"])
def test_a_template_that_shows_no_query_is_refused_by_every_command(
    tmp_path: Path, tiny_model: Path, command: str
) -> None:
    workspace = with_template(tmp_path, tiny_model, NO_QUERY)
    arguments: dict[str, tuple[object, ...]] = {
        "teacher-cache": ("--config", workspace.settings, "--out", workspace.cache),
        "prefixes": ("--config", workspace.settings, tmp_path / "prefix.json"),
        "ask": ("--model", workspace.model, "Why?"),
    }

    refused = workspace.duet(command, *arguments[command])

    assert refused.exit_code == 1 and isinstance(refused.exception, SystemExit), refused.output
    assert "does not show what the user asks" in refused.output or "fails: " in refused.output
    assert not workspace.cache.exists()


def test_a_row_of_a_thinking_model_teaches_the_answers_first_token(tmp_path: Path, tiny_model: Path) -> None:
    workspace = with_template(tmp_path, tiny_model, THINKS)
    assert workspace.teacher_cache().exit_code == 0
    tokenizer = __import__("transformers").AutoTokenizer.from_pretrained(workspace.model)

    assert all(tokenizer.decode(ids).endswith("<think>\n\n</think>\n\n") for ids in ids_of(workspace.cache))


def test_a_capture_in_which_every_answer_begins_alike_says_so(tmp_path: Path, tiny_model: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    workspace = with_template(tmp_path, tiny_model, MESSAGES)
    path = workspace.model / "model.safetensors"
    weights = load_file(path)
    # All hidden states end as the same vector, so that every position says the same token.
    weights["model.norm.weight"] = torch.zeros_like(weights["model.norm.weight"])
    save_file(weights, path, metadata={"format": "pt"})

    done = workspace.teacher_cache()

    assert "Warning: in all 7 rows the teacher's likeliest first token is" in done.output, done.output


def test_a_capture_in_which_answers_begin_in_several_ways_says_nothing(workspace: Workspace) -> None:
    assert "Warning" not in workspace.teacher_cache().output


def test_a_plan_names_what_its_template_was_told(tmp_path: Path, tiny_model: Path) -> None:
    workspace = with_template(tmp_path, tiny_model, DATED)
    workspace.teacher_cache("--set", "model.template_date=2027-01-05")

    settings = json.loads((workspace.cache / "settings.json").read_bytes())
    assert settings["model"]["template_date"] == "2027-01-05"
