"""EleutherAI's lm-evaluation-harness: its tasks, its run over them, and a model of its kind that an engine of ours answers for.

The only module that imports `lm_eval` and `datasets`, and itself imported inside functions: they take seconds to load.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Features, List, Value
from datasets.exceptions import DatasetsError
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from stages.errors import DataError
from stages.language_model.engine import Engine
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter, bare_text

# What keeps a task's questions away: a hub that is out of reach or refuses, a package that the task needs.
NOT_TO_BE_HAD = (OSError, ValueError, ImportError, DatasetsError)
FEATURES = Features(question=Value("string"), choices=List(Value("string")), answer=Value("int64"))
Pair = tuple[tuple[str, str], list[int], list[int]]  # context and option as text; the token ids of each


@lru_cache(maxsize=1)
def index(folder: Path | None) -> Any:
    """lm-eval's tasks by name, and those of a folder before them. Reading its thousands of files takes ten seconds."""
    return TaskManager(include_path=folder)


def task_of(config: Mapping[str, Any]) -> Any:
    """A task of lm-eval by its configuration alone."""
    return TaskManager(include_defaults=False).load([config])["tasks"][config["task"]]


def run(model: "EngineModel", tasks: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By task, lm-eval's sample of every question: the document, the answers to its requests, the metrics."""
    found = evaluate(lm=model, task_dict={"tasks": dict(tasks)}, bootstrap_iters=0, log_samples=True)
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples


class EngineModel(TemplateLM):  # type: ignore[misc]
    """An `lm_eval` model over an engine that was started for log-probabilities.

    Prompts are plain text, as lm-eval lays them out, and are split into tokens as its own models split them. The prefix
    stands before the whole of it, examples included.
    """

    def __init__(
        self,
        engine: Engine | None,
        prompter: Prompter,
        prefix: Prefix | None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        super().__init__()
        self._engine, self._prompter, self._advance = engine, prompter, advance
        self._before = bare_text("", prefix)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of each request (context, option) the natural log-probability of the option, summed over its tokens."""
        found = []
        # The requests of one task begin alike, and an engine reads only once what all of its prompts begin with.
        for _, group in groupby(requests, key=lambda request: request.task_name):
            behind = [
                replace(request, arguments=(self._before + request.args[0], request.args[1])) for request in group
            ]
            found += super().loglikelihood(behind, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **more: Any) -> list[tuple[float, bool]]:
        assert self._engine is not None
        contexts, options = [context for _, context, _ in requests], [option for *_, option in requests]
        values = self._engine.log_probabilities(contexts, options, advance=self._advance)
        # Whether greedy decoding would have said the option is not known. No metric that is read here asks for it.
        return [(float(values_T.sum()), False) for values_T in values]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        # What the tokenizer would put behind a text, an end token, is never wanted: an option follows.
        before = [] if add_special_tokens is False else self._prompter.before_ids
        return [*before, *self._prompter.tokenizer.encode(string, add_special_tokens=False)]

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        found: int = self._prompter.tokenizer.eos_token_id
        return found

    @property
    def prefix_token_id(self) -> int:
        """What lm-eval's own models put before an option without context: the start token, or else the end token."""
        tokenizer = self._prompter.tokenizer
        for found in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            if found is not None:
                return int(found)
        raise DataError(
            f"A task asks options without a context, and the tokenizer of {tokenizer.name_or_path} has no token to begin with.",
            "The likelihood of an option's first token is not defined, so nothing was asked.",
            "Name a bos_token or an eos_token in tokenizer_config.json, or leave the task out of evaluation.tasks.",
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError("only multiple choice is asked of it")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("only multiple choice is asked of it")


class Ruler(EngineModel):
    """The same without an engine: it only measures. longest: tokens of the longest context with its option."""

    def __init__(self, prompter: Prompter, prefix: Prefix | None) -> None:
        super().__init__(None, prompter, prefix)
        self.longest = 0

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **more: Any) -> list[tuple[float, bool]]:
        self.longest = max(self.longest, *(len(context) + len(option) for _, context, option in requests))
        return [(0.0, False)] * len(requests)
