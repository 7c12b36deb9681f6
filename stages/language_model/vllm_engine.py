"""The vLLM engine: fast, and the only module that imports vLLM.

It knows nothing of Parquet, of prefixes or of training; continuations leave in prompt order, whatever order the engine
finishes them in.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from stages.errors import DuetError, EngineError
from stages.language_model.architectures import refuse_on_vllm, refuse_varying_rotary
from stages.language_model.engine import (
    TIE_MARGIN,
    Continuation,
    EngineOptions,
    not_numbers,
    refuse_raw_logits,
    sort_candidates,
)
from stages.language_model.folder import vocab_size
from stages.language_model.hardware import cuda_is_available, describe_hardware
from stages.language_model.loading import text_config
from stages.language_model.vector_math import settle_vector_math

OLDEST_VLLM = (0, 26)


class VllmEngine:
    """An `Engine` on vLLM. Raises EngineError if vLLM is too old to give raw logits, or cannot run the model as it is."""

    name = "vllm"

    def __init__(self, options: EngineOptions) -> None:
        on_gpu = cuda_is_available()
        # Read by vLLM when it is imported. In process it uses all cores; its own worker would be bound to one.
        if not on_gpu:
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm

        self.version: str = vllm.__version__
        if tuple(int(part) for part in self.version.split(".")[:2]) < OLDEST_VLLM:
            raise EngineError(
                f"vLLM {self.version} is installed.",
                "Raw logits need vllm >= 0.26: older ones give log-probabilities in places where logits are asked for.",
                "Install the locked one:  make setup",
            )
        self.hardware = describe_hardware()
        self._options = options
        self._sampling = vllm.SamplingParams
        self.batch_rows = options.batch_rows
        self._stop_ids = list(options.stop_ids)
        self._vocabulary = vocab_size(options.model)
        try:
            config = text_config(options.model)
            refuse_varying_rotary(config, options.context_length)
            refuse_on_vllm(config, options.context_length)
            self._llm = _start(options, on_gpu=on_gpu)
            # What a backend lacks, it may notice at the first tokens only: one to read, two to say.
            first = self._sampling(temperature=0, max_tokens=2, ignore_eos=True, detokenize=False)
            if options.context_length > 2:
                self._generate([[0]], [first], lambda done: None)
        except DuetError:
            raise
        # Wide on purpose: what vLLM raises over a model that it cannot run has no common base. pydantic, torch and Python
        # raise it, by assertions, missing attributes and indices among others.
        except Exception as error:
            raise EngineError(
                f"vLLM {self.version} cannot run {options.model}: {_reason(error)}",
                f"A model was needed that vLLM runs {'on this GPU' if on_gpu else 'on a CPU'} in {options.dtype}; "
                "nothing was asked.",
                "Use the reference engine:  --set model.engine=transformers",
            ) from error

    def continue_greedily(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        top_k: int = 0,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Continuation]:
        params = self._sampling(
            temperature=0,
            max_tokens=max_tokens,
            # vLLM refuses a request for more candidates than there are tokens.
            # Without candidates the chosen token's own value, which tells whether there are numbers at all.
            logprobs=min(top_k + TIE_MARGIN, self._vocabulary) if top_k else 0,
            flat_logprobs=True,
            detokenize=False,
            stop_token_ids=self._stop_ids,
        )
        outputs = self._generate(prompts, [params] * len(prompts), advance)
        if not top_k:  # who asks for candidates looks at them, and can name the row
            self._refuse_nan(output.outputs[0].logprobs.logprobs for output in outputs)
        return [_continuation(output.outputs[0], top_k) for output in outputs]

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_tokens: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        params = [
            self._sampling(
                temperature=1,
                seed=seed,
                max_tokens=max_tokens,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                stop_token_ids=self._stop_ids,
            )
            for seed in seeds
        ]
        outputs = self._generate(prompts, params, advance)
        self._refuse_nan(output.outputs[0].logprobs.logprobs for output in outputs)
        return [np.array(output.outputs[0].token_ids, dtype=np.int32) for output in outputs]

    def log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[np.ndarray]:
        refuse_raw_logits(self._options)
        # 0 beyond the prompt's own tokens: of each position the value of the token that stands there.
        params = self._sampling(temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        whole = [[*prompt, *given] for prompt, given in zip(prompts, continuations, strict=True)]
        outputs = self._generate(whole, [params] * len(whole), advance)
        found = []
        for ids, given, output in zip(whole, continuations, outputs, strict=True):
            flat = output.prompt_logprobs
            # The first token of a text has no value, and so no entry.
            starts = flat.start_indices[len(ids) - len(given) :]
            assert [flat.token_ids[start] for start in starts] == list(given)
            found.append(np.array([flat.logprobs[start] for start in starts], dtype=np.float32))
        self._refuse_nan(found)
        return found

    def _refuse_nan(self, values: Iterable[Sequence[float] | np.ndarray]) -> None:
        """Raise EngineError for values that are no numbers: the model would seem to have forgotten everything."""
        if any(np.isnan(each).any() for each in values):
            raise not_numbers(str(self._options.model))

    def _generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[Any], advance: Callable[[int], None]
    ) -> list[Any]:
        """vLLM's own outputs, in prompt order."""
        outputs: list[Any] = []
        # A few batches at a time keep the engine full and the progress bar moving.
        step = 4 * self.batch_rows
        for start in range(0, len(prompts), step):
            chunk = [{"prompt_token_ids": list(prompt)} for prompt in prompts[start : start + step]]
            outputs += self._llm.generate(chunk, list(params[start : start + step]), use_tqdm=False)
            advance(len(chunk))
        return outputs

    def whole_vocabulary(self, prompt: Sequence[int]) -> np.ndarray:
        params = self._sampling(temperature=0, max_tokens=1, logprobs=-1, flat_logprobs=True, detokenize=False)
        output = self._llm.generate([{"prompt_token_ids": list(prompt)}], params, use_tqdm=False)[0].outputs[0]
        flat = output.logprobs
        values = dict(zip(flat.token_ids, flat.logprobs, strict=True))
        return np.array([values[index] for index in sorted(values)], dtype=np.float32)


def _start(options: EngineOptions, *, on_gpu: bool) -> Any:
    """vLLM's own engine, with the model loaded."""
    import vllm

    settle_vector_math()
    model: dict[str, Any] = {
        "model": str(options.model),
        "dtype": options.dtype,
        "max_model_len": options.context_length,
        "trust_remote_code": False,
        # The files that were hashed, and not those in Mistral's own format, which may stand beside them.
        "load_format": "safetensors",
        "config_format": "hf",
        "skip_tokenizer_init": True,
        # Of a model that also sees or hears, the language part is asked.
        "limit_mm_per_prompt": {"image": 0, "video": 0, "audio": 0},
        "seed": 0,
    }
    # What layers keep beside keys and values is right at the end of a prompt only, and on the CPU cannot be kept elsewhere.
    has_states = vllm.EngineArgs(**model).create_model_config().has_inner_state
    return vllm.LLM(
        **model,
        max_num_seqs=options.batch_rows,
        # One vocabulary-wide request probes for raw logits; the cap itself costs nothing.
        max_logprobs=-1,
        logprobs_mode="raw_logprobs" if options.log_probabilities else "raw_logits",
        enable_prefix_caching=not has_states,
        enforce_eager=not on_gpu,
        tensor_parallel_size=options.gpus if on_gpu else 1,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        # On the CPU blocks of 128 are the default: of a 347-token prefix 91 tokens would be read again for each row.
        **({} if on_gpu else {"block_size": 32}),
    )


def _reason(error: BaseException) -> str:
    """What vLLM says was wrong, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic counts its errors on the first line and names the class on the second.
    said = next((line.removeprefix("Value error, ") for line in lines if line.startswith("Value error, ")), "")
    reason = (said or " ".join(lines)).split(" [type=")[0].split(" Please check the logs")[0]
    return f"{type(error).__name__}: {reason[:300]}".rstrip(": ")


def _continuation(output: Any, top_k: int) -> Continuation:
    token_ids, ended = np.array(output.token_ids, dtype=np.int32), output.finish_reason == "stop"
    if not top_k:
        empty = np.empty((len(token_ids), 0))
        return Continuation(token_ids, empty.astype(np.int32), empty.astype(np.float32), ended)
    flat = output.logprobs
    ids, logits = np.array(flat.token_ids), np.array(flat.logprobs, dtype=np.float32)
    per_position = [slice(*bounds) for bounds in zip(flat.start_indices, flat.end_indices, strict=True)]
    # The sampled token stands first and again at its rank, unless vLLM has merged the two: drop what is doubled.
    uniform = [_distinct(ids[part], logits[part]) for part in per_position]
    width = min(len(part_ids) for part_ids, _ in uniform)
    if width < top_k:
        raise EngineError(f"vLLM returned {width} candidates at a position where {top_k} were asked for.")
    kept = [sort_candidates(part_ids[None], part_logits[None], top_k) for part_ids, part_logits in uniform]
    return Continuation(
        token_ids,
        np.concatenate([part_ids for part_ids, _ in kept]),
        np.concatenate([part_logits for _, part_logits in kept]),
        ended,
    )


def _distinct(ids: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, first = np.unique(ids, return_index=True)
    return ids[first], logits[first]
