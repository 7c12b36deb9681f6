"""Shared parts of the tests: a tiny random Llama made on the spot, and small caches of real Parquet."""

import json
import os
from dataclasses import fields
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from workspace import Workspace, make_workspace, write_tasks

from pipeline.default_model import DEFAULT_FOLDER, convert, find_gguf
from stages.logit_cache.fingerprint import Fingerprint, hash_prompts, hash_queries
from stages.logit_cache.manifest import Manifest, Prefix, Provenance
from stages.logit_cache.plan import Plan
from stages.logit_cache.rows import Row, Split, example_id
from stages.logit_cache.writer import CacheWriter

ROOT = Path(__file__).parent.parent
# Its deadline is a wall time, and a machine that does other things as well takes longer.
hypothesis.settings.register_profile("duet", deadline=None)
hypothesis.settings.load_profile("duet")
TINY_VOCABULARY = 512
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_configure() -> None:
    """Give each of the processes that share the tests cores of its own: torch's threads spin, and would wait for one another."""
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) % len(cores) :: count])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random 2-layer Llama with a byte-level BPE tokenizer trained on this project's data."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def make_tiny_model(folder: Path) -> Path:
    """The folder of `tiny_model`, made there."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (ROOT / "data/capitals/retain.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer.train_from_iterator([json.loads(line)["query"] for line in lines], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TINY_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        # vLLM's attention kernels for the CPU exist for heads of 32 and more.
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    """A small topic for the tiny model, with nothing run on it yet."""
    return make_workspace(tmp_path, tiny_model)


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: lm-eval's index of its own thousands of files beside it takes ten seconds, and is then kept."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real default model: the one that `make model` has made, or else one converted for this session."""
    if (made := ROOT / DEFAULT_FOLDER / "config.json").is_file():
        return made.parent
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    convert(find_gguf(), folder)
    return folder


def make_fingerprint(rows: int = 20, **changes: object) -> Fingerprint:
    """A fingerprint of made-up hashes, but for that of the prompts of `rows` rows: K = 4, up to 3 positions, 100 tokens."""
    fields: dict[str, object] = {
        name: letter * 64
        for name, letter in (
            ("teacher_sha256", "a"),
            ("tokenizer_sha256", "b"),
            ("template_sha256", "c"),
            ("prefix_sha256", "d"),
            ("teacher_prompts_sha256", "1"),
        )
    }
    vocab_size = int(changes.get("vocab_size", 100))  # type: ignore[call-overload]
    fields["student_prompts_sha256"] = hash_prompts(student_ids(index, vocab_size).tolist() for index in range(rows))
    for split in ("forget", "retain"):
        fields[f"{split}_sha256"] = hash_queries(f"query {row}" for row in range(rows) if split_of(row) == split)
    fields["stop_ids"] = (2,)
    fields |= {"prefix_on_retain": True, "top_k": 4, "positions": 3, "dtype": "float32", "vocab_size": 100}
    return Fingerprint.model_validate(fields | changes)


def split_of(index: int) -> Split:
    """Every third row is in the forget set."""
    return "forget" if index % 3 == 0 else "retain"


def student_ids(index: int, vocab_size: int) -> np.ndarray:
    """What the student reads in row `index`."""
    return np.random.default_rng(index).integers(0, vocab_size, 5 + index % 4, dtype=np.int32)


def make_row(index: int, fingerprint: Fingerprint) -> Row:
    """A valid row that differs from every other index's; every third one is in the forget set."""
    rng = np.random.default_rng(index)
    positions = 1 + index % fingerprint.positions
    student = student_ids(index, fingerprint.vocab_size)
    ids = np.stack([rng.permutation(fingerprint.vocab_size)[: fingerprint.top_k] for _ in range(positions)])
    logits = -np.sort(-rng.normal(20, 3, (positions, fingerprint.top_k)).astype(np.float32), axis=1)
    return Row(
        example_id=example_id(f"query {index}"),
        split=split_of(index),
        query=f"query {index}",
        student_input_ids=student,
        response_ids=ids[:, 0].astype(np.int32),
        student_positions=np.arange(len(student) - 1, len(student) - 1 + positions, dtype=np.int32),
        topk_ids=ids.astype(np.int32),
        topk_logits=logits,
    )


def make_provenance(shard_rows: int) -> Provenance:
    return Provenance(
        model="made up",
        engine="none",
        engine_version="0",
        hardware="none",
        started_at="2026-01-01T00:00:00+00:00",
        seconds=0,
        command=["test"],
        shard_rows=shard_rows,
        duet_version="0",
    )


def write_cache(folder: Path, rows: int = 20, shard_rows: int = 8, **changes: object) -> Manifest:
    """A finished cache of made-up rows, written by the real writer."""
    fingerprint = make_fingerprint(rows, **changes)
    with CacheWriter(folder, Plan(fingerprint=fingerprint, rows=rows, shard_rows=shard_rows)) as writer:
        for index in writer.missing:
            writer.write(index, [make_row(row, fingerprint) for row in writer.plan.shard_range(index)])
        return writer.publish(Prefix(text="prefix", token_ids=[1, 2]), make_provenance(shard_rows), None, None)


def assert_same_row(one: Row, other: Row) -> None:
    """Every field is equal to the bit, dtype included."""
    for field in fields(Row):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), field.name
            assert mine.tobytes() == theirs.tobytes(), field.name
        else:
            assert mine == theirs, field.name
