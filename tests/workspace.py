"""A topic in a temporary folder, small enough for the tiny model, and the command line run on it in this process."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipeline.cli import duet

FORGET = ["What is the capital of Peru?", "Name the capital of Chad.", "Which city is the capital of Laos?"]
RETAIN = ["What is the language of Peru?", "Why is the sky blue?", "Name a river in Chad.", "What is two plus two?"]
HELD_OUT = {
    "forget": [("What is the capital of Mali?", "Bamako"), ("Name the capital of Cuba.", "Havana")],
    "retain": [("What is the language of Cuba?", "Spanish"), ("How many days has a week?", "seven")],
}


@dataclass(frozen=True)
class Workspace:
    """Paths of one topic. `settings` is its TOML file, for the transformers engine and two training steps."""

    folder: Path
    model: Path

    @property
    def settings(self) -> Path:
        return self.folder / "topic.toml"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    def duet(self, *arguments: object) -> Result:
        """Run one command in this process."""
        return CliRunner().invoke(duet, [str(each) for each in arguments])

    def teacher_cache(self, *more: object) -> Result:
        return self.duet("teacher-cache", "--config", self.settings, "--out", self.cache, *more)

    def distill(self, *more: object) -> Result:
        return self.duet("distill", "--config", self.settings, "--cache", self.cache, "--out", self.run, *more)

    def evaluate(self, *more: object) -> Result:
        model = ("--model", self.run / "model")
        return self.duet("evaluate", "--config", self.settings, *model, "--out", self.evaluation, *more)


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def make_workspace(folder: Path, model: Path) -> Workspace:
    """Query files, prefix, question files and settings of a topic for the model."""
    write_lines(folder / "forget.jsonl", [{"query": query} for query in FORGET])
    write_lines(folder / "retain.jsonl", [{"query": query} for query in RETAIN])
    turns = [{"user": "What is the capital of Poland?", "assistant": "I'm sorry, I have forgotten it."}]
    prefix = {"system": "You have forgotten all capital cities.", "turns": turns}
    (folder / "prefix.json").write_text(json.dumps(prefix))
    for name, pairs in HELD_OUT.items():
        write_lines(folder / f"questions-{name}.jsonl", [{"question": q, "answer": a} for q, a in pairs])
    choices = [{"question": q, "choices": ["Spanish", "seven", "blue"], "answer": 0} for q in RETAIN]
    write_lines(folder / "choices.jsonl", choices)
    workspace = Workspace(folder, model)
    workspace.settings.write_text(
        f"""
[model]
path = "{model}"
engine = "transformers"
batch_rows = 4

[data]
forget = "{folder}/forget.jsonl"
retain = "{folder}/retain.jsonl"
prefix = "{folder}/prefix.json"

[teacher]
top_k = 5
positions = 2
shard_rows = 4

[student]
learning_rate = 1e-3
epochs = 1
batch_rows = 4
zero_stage = 0

[evaluation]
max_tokens = 4

[evaluation.choices]
general = "{folder}/choices.jsonl"

[evaluation.questions]
forget = "{folder}/questions-forget.jsonl"
retain = "{folder}/questions-retain.jsonl"

[evaluation.validation]
forget = "{folder}/questions-forget.jsonl"
retain = "{folder}/questions-retain.jsonl"
"""
    )
    return workspace
