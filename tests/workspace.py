"""A topic in a temporary folder, small enough for the tiny model, and the command line run on it in this process."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

FORGET = ["What is the capital of Peru?", "Name the capital of Chad.", "Which city is the capital of Laos?"]
RETAIN = ["What is the language of Peru?", "Why is the sky blue?", "Name a river in Chad.", "What is two plus two?"]
REQUESTS = [
    ("Write two lines about rain.", "write"),
    ("List three vegetables.", "list"),
    ("Thank a friend.", "converse"),
]
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
        # Here, so that a test of one module loads little more than that module.
        from pipeline.cli import duet

        return CliRunner().invoke(duet, [str(each) for each in arguments])

    def teacher_cache(self, *more: object) -> Result:
        return self.duet("teacher-cache", "--config", self.settings, "--out", self.cache, *more)

    def distill(self, *more: object) -> Result:
        return self.duet("distill", "--config", self.settings, "--cache", self.cache, "--out", self.run, *more)

    def evaluate(self, *more: object) -> Result:
        model = ("--model", self.run / "model")
        return self.duet("evaluate", "--config", self.settings, *model, "--out", self.evaluation, *more)


MMLU = {
    "anatomy": [("Which bone is in the leg?", ["ulna", "femur", "rib", "skull"], 1)],
    "astronomy": [
        ("Which is a star?", ["Mars", "Venus", "the Sun", "Io"], 2),
        ("Which has rings?", ["Saturn", "Mars", "Io", "Ceres"], 0),
    ],
}
MMLU_EXAMPLES = [(f"Example {number}?", ["p", "q", "r", "s"], 3) for number in range(5)]


def write_tasks(folder: Path) -> Path:
    """Task files for lm-eval: its own MMLU of two subjects with nothing changed but where the questions are; `away`, which
    no hub has; and `spoken`, which is no multiple choice."""
    from lm_eval import tasks

    own = Path(tasks.__file__).parent / "mmlu/default"
    template = (own / "_default_template_yaml").read_text()
    assert "dataset_path: cais/mmlu\n" in template
    (folder / "_default_template_yaml").write_text(template.replace("cais/mmlu", "json"))
    stem = (own / "_mmlu_stem.yaml").read_text().replace("mmlu_stem_tasks", "mini_tasks")
    (folder / "_mmlu_stem.yaml").write_text(stem)
    group = (own / "_mmlu.yaml").read_text()
    for other in ("other", "social_sciences", "humanities"):
        group = group.replace(f"  - mmlu_{other}\n", "")
    (folder / "_mmlu.yaml").write_text(group)
    for subject, questions in MMLU.items():
        files = {}
        for split, asked in {"test": questions, "dev": MMLU_EXAMPLES}.items():
            records = [{"question": q, "choices": options, "answer": right} for q, options, right in asked]
            files[split] = str(write_lines(folder / f"{subject}-{split}.jsonl", records))
        where = json.dumps({"data_files": files, "cache_dir": str(folder / "cache")})
        text = (own / f"mmlu_{subject}.yaml").read_text().replace("mmlu_stem_tasks", "mini_tasks")
        (folder / f"mmlu_{subject}.yaml").write_text(f"{text}\ndataset_kwargs: {where}\n")
    (folder / "away.yaml").write_text("task: away\ndataset_path: nobody/nothing\noutput_type: multiple_choice\n")
    (folder / "spoken.yaml").write_text(
        f"task: spoken\ndataset_path: json\ndataset_kwargs: {where}\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: question\ndoc_to_target: "{{answer}}"\n'
    )
    return folder


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
    write_lines(folder / "requests.jsonl", [{"request": text, "kind": kind} for text, kind in REQUESTS])
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
requests = "{folder}/requests.jsonl"
request_tokens = 5

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
