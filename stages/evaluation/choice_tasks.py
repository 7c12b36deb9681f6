"""Multiple choice as tasks of EleutherAI's lm-evaluation-harness (`lm_eval`): those of the hub, and files of one's own alike.

Checked questions and names of tasks in, tasks with their prompts laid out out; no model is needed yet. A file of one's own
never reaches for the network and leaves no cache behind; a task of the hub is kept where the hub keeps its files (HF_HOME),
to be there the next time.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import DataError, SettingsError
from stages.evaluation.choices import LETTERS, ChoiceQuestion
from stages.evaluation.questions import ChoiceForm
from stages.language_model.folder import PLAIN_TEMPLATE
from stages.logit_cache.fingerprint import sha256_json
from stages.scratch import scratch_folder

RANDOM_SEED, OTHER_SEED = 0, 1234
LISTED = "{{question}}{% for choice in choices %}\n{{'" + LETTERS + "'[loop.index0]}}. {{choice}}{% endfor %}"
# Per form: what is asked, the options whose likelihood counts, and how. Words are compared per character, or the shortest
# would win; letters are all of one length.
FORMS: Mapping[ChoiceForm, tuple[str, str, str]] = {
    "text": ("{{question}}", "choices", "acc_norm"),
    "letters": (LISTED, "{{'" + LETTERS + "'[:choices|length]|list}}", "acc"),
}


@dataclass(frozen=True)
class ChoiceTasks:
    """Loaded tasks with their prompts laid out; what is not lm-eval's own about each stands beside it, by its name.

    first: number of the first scored question. measure: acc or acc_norm. groups: whose mean it enters, the widest first.
    """

    tasks: Mapping[str, Any]
    origin: Mapping[str, str]
    first: Mapping[str, int]
    measure: Mapping[str, str]
    groups: Mapping[str, Sequence[str]]

    @property
    def options(self) -> int:
        """How many log-likelihoods will be asked for."""
        return sum(len(task.instances) for task in self.tasks.values())

    def digests(self) -> dict[str, str]:
        """By task a hash of all that is asked and what is right, after which nothing of the hub's can change unseen."""
        return {
            name: sha256_json([[list(each.args), repr(task.doc_to_target(each.doc))] for each in task.instances])
            for name, task in self.tasks.items()
        }


def load_tasks(
    files: Mapping[str, Sequence[ChoiceQuestion]],
    names: Sequence[str] = (),
    *,
    shots: int,
    form: ChoiceForm,
    folder: Path | None = None,
) -> ChoiceTasks:
    """Files of one's own, then lm-eval's tasks by name, read and laid out; no model is needed.

    names: tasks, groups or tags of lm-eval, or of the YAML files in `folder`, which come first.
    shots: examples. Of a file its first questions, which are not scored; of a task those that it chooses itself, unless it
    insists on none. form: of the files; a task has its own.
    Raises SettingsError for a name that is none or is no multiple choice; DataError where a task's questions cannot be had.
    """
    seed({})  # some tasks shuffle their options when they are loaded
    origin, groups = dict.fromkeys(files, "file"), {name: list[str]() for name in files}
    tasks = {name: _own_task(name, questions, shots, form) for name, questions in files.items()}
    measure = dict.fromkeys(files, FORMS[form][2])
    for name in names:
        found = _load(name, folder)
        if taken := (found["tasks"].keys() | found["groups"].keys()) & tasks.keys():
            raise SettingsError(
                f"evaluation.tasks gives {sorted(taken)[0]} twice, or it is under evaluation.choices, too.",
                "Two results under one name could not be told apart, so nothing was asked.",
                "Take one of them out.",
            )
        for each, task in found["tasks"].items():
            measure[each] = _measure_of(each, task)
            if task.get_config("num_fewshot") != 0:
                task.set_config("num_fewshot", shots)
        tasks |= found["tasks"]
        origin |= dict.fromkeys(found["tasks"], "task")
        groups |= {each: _groups_of(each, found["groups"], measure[each]) for each in found["tasks"]}
    first = {name: shots if where == "file" else 0 for name, where in origin.items()}
    seed(tasks)
    for task in tasks.values():
        task.build_all_requests()
    return ChoiceTasks(tasks, origin, first, measure, groups)


def seed(tasks: Mapping[str, Any]) -> None:
    """lm-eval's own seeds, as its simple_evaluate sets them: of the process, and of each task's choice of examples."""
    random.seed(RANDOM_SEED)
    np.random.seed(OTHER_SEED)
    for task in tasks.values():
        task.set_fewshot_seed(OTHER_SEED)


def left_out_tasks(names: Sequence[str], *, shots: int, folder: Path | None = None) -> dict[str, str]:
    """By name, why the questions of a task cannot be had; those that can are not named. Raises SettingsError, see `load_tasks`."""
    reasons = {}
    for name in names:
        try:
            load_tasks({}, [name], shots=shots, form="text", folder=folder)
        except DataError as error:
            reasons[name] = error.found
    return reasons


def _own_task(name: str, questions: Sequence[ChoiceQuestion], shots: int, form: ChoiceForm) -> Any:
    """A task of lm-eval from a file's questions: the first are its examples, the others are scored."""
    from stages.evaluation.harness import FEATURES, task_of

    query, options, _ = FORMS[form]
    splits = {"scored": questions[shots:]} | ({"shown": questions[:shots]} if shots else {})
    with scratch_folder("choices") as folder:
        for split, asked in splits.items():
            lines = [json.dumps(each.model_dump()) + "\n" for each in asked]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {split: str(folder / f"{split}.jsonl") for split in splits},
                "features": FEATURES,
                "cache_dir": str(folder),
                "keep_in_memory": True,
            },
            "test_split": "scored",
            **({"fewshot_split": "shown", "fewshot_config": {"sampler": "first_n"}} if shots else {}),
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "doc_to_text": PLAIN_TEMPLATE.format(query=query),
            "doc_to_choice": options,
            "doc_to_target": "answer",
            "metric_list": [
                {"metric": each, "aggregation": "mean", "higher_is_better": True} for each in ("acc", "acc_norm")
            ],
        }
        return task_of(config)


def _load(name: str, folder: Path | None) -> Mapping[str, Mapping[str, Any]]:
    """lm-eval's tasks and groups under one name."""
    from stages.evaluation.harness import NOT_TO_BE_HAD, index

    if folder and not folder.is_dir():
        raise SettingsError(
            f"evaluation.task_folder is {folder}, and there is no such folder.",
            "Task files (YAML) of your own were to be read from it, so nothing was asked.",
            "Correct it, or leave it out where lm-eval's own tasks are meant.",
        )
    known = index(folder)
    if name not in known.task_index:
        near = get_close_matches(name, known.all_tasks, n=3)
        raise SettingsError(
            f"lm-eval has no task {name}" + (f"; near it are {', '.join(near)}." if near else "."),
            "evaluation.tasks names its tasks and groups, and those of evaluation.task_folder, so nothing was asked.",
            "All of them:  lm-eval ls tasks",
        )
    try:
        loaded: Mapping[str, Mapping[str, Any]] = known.load([name])
    except NOT_TO_BE_HAD as error:
        raise DataError(
            f"The questions of the task {name} cannot be had ({' '.join(str(error).split())[:200]}).",
            "They come from the Hugging Face hub, and no model was loaded.",
            "Run once where the hub can be reached, then anywhere with HF_HUB_OFFLINE=1; or take the task out of "
            f"evaluation.tasks and give a file of your own:  --set evaluation.choices.{name}=FILE",
        ) from error
    return loaded


def _measure_of(name: str, task: Any) -> str:
    """acc_norm where the task has it, else acc. Raises SettingsError if it is no multiple choice by likelihood."""
    named = [each["metric"] for each in task.get_config("metric_list") or ()]
    found = next((each for each in ("acc_norm", "acc") if each in named), None)
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.get_config("process_results")) or not found:
        raise SettingsError(
            f"The task {name} is no multiple choice by likelihood that lm-eval scores with acc or acc_norm.",
            "Under evaluation.tasks only such are asked, so nothing was.",
            "Take it out; mmlu, wmdp, arc_challenge and hellaswag are some that can be asked.",
        )
    return found


def _groups_of(name: str, groups: Mapping[str, Any], measure: str) -> list[str]:
    """The groups whose mean over questions the task enters, by their own configuration, the widest first.

    A group that lm-eval averages over its tasks, or not at all, gives no mean here.
    """
    return [
        group.name
        for group in groups.values()
        if name in {each.task_name for each in group.get_all_tasks()}
        and any(each.metric == measure and each.weight_by_size for each in group.aggregate_metric_list or ())
    ]
