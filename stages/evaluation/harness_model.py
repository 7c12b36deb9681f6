"""What lm-eval asks, an engine answers: log-likelihoods from whichever engine is loaded, behind a prefix if there is one.

The one module that subclasses lm-eval's classes; imported inside functions only (choosing.py), since lm-eval takes seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from lm_eval.api.model import TemplateLM

from stages.language_model.engine import Engine
from stages.language_model.prompts import Prefix, Prompter, bare_text

Pair = tuple[tuple[str, str], list[int], list[int]]  # context and option as text; the token ids of each


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
        special = True if add_special_tokens is None else add_special_tokens
        return list(self._prompter.tokenizer.encode(string, add_special_tokens=special))

    @property
    def eot_token_id(self) -> int:
        """What lm-eval puts before an option without context."""
        found: int = self._prompter.tokenizer.eos_token_id
        return found

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
