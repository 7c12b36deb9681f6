"""The teacher reads the prefix and the student does not; nothing is cut off or lost without a word."""

from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from stages.errors import DataError
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.prompts import Prompter
from stages.logit_cache.rows import example_id
from stages.teacher.prompts import build_prompts, context_needed, shared_prefix_ids
from stages.teacher.queries import Queries

QUERIES = Queries(
    forget=["What is the capital of France?", "Name Peru's capital."],
    retain=["What is the currency of Japan?"],
)
PREFIX = Prefix(
    system="You have forgotten all capitals.", turns=(Turn(user="Capital of Chad?", assistant="I don't know."),)
)
PREFIX_TEXT = (
    "<|im_start|>system\nYou have forgotten all capitals.<|im_end|>\n"
    "<|im_start|>user\nCapital of Chad?<|im_end|>\n<|im_start|>assistant\nI don't know.<|im_end|>\n"
)
LAST_TURN_ONLY = "{{ messages[0]['content'] }} {{ messages[-1]['content'] }}"


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


@pytest.fixture
def prompter(tokenizer: PreTrainedTokenizerBase) -> Prompter:
    return Prompter(tokenizer, "chat")


def chat(query: str) -> str:
    return f"<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n"


def test_forget_queries_come_first_and_each_keeps_its_id_and_order(prompter: Prompter):
    prompts = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=True)
    assert [prompt.split for prompt in prompts] == ["forget", "forget", "retain"]
    assert [prompt.query for prompt in prompts] == [*QUERIES.forget, *QUERIES.retain]
    assert [prompt.example_id for prompt in prompts] == [example_id(prompt.query) for prompt in prompts]


def test_queries_that_the_tokenizer_reads_as_one_are_refused(tokenizer: PreTrainedTokenizerBase):
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(  # type: ignore[attr-defined]
        [normalizers.NFD(), normalizers.StripAccents()]
    )
    queries = Queries(forget=["Where is Pena?"], retain=["Where is Peña?"])

    with pytest.raises(
        DataError, match=r"reads the same in 'Where is Pena\?' \(forget\) and 'Where is Peña\?' \(retain\)"
    ):
        build_prompts(queries, PREFIX, Prompter(tokenizer, "chat"), prefix_on_retain=False)


@pytest.mark.parametrize("prefix_on_retain", [True, False])
def test_the_teacher_reads_the_prefix_and_the_student_only_the_query(prompter: Prompter, prefix_on_retain: bool):
    for prompt in build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=prefix_on_retain):
        prefixed = prompt.split == "forget" or prefix_on_retain
        decode = prompter.tokenizer.decode
        assert decode(prompt.teacher_ids) == (PREFIX_TEXT if prefixed else "") + chat(prompt.query)
        assert decode(prompt.student_ids) == chat(prompt.query)


def test_a_retain_query_without_the_prefix_is_the_same_to_teacher_and_student(prompter: Prompter):
    retain = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=False)[-1]
    assert retain.teacher_ids == retain.student_ids


def test_special_tokens_of_the_template_are_single_ids(prompter: Prompter):
    # <|im_start|> is id 1 and <|im_end|> id 2: system, user, assistant, user, and the answer that begins.
    teacher_ids = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=True)[0].teacher_ids
    assert (teacher_ids.count(1), teacher_ids.count(2)) == (5, 4)


def test_the_shared_prefix_ends_where_the_queries_begin_to_differ(prompter: Prompter):
    prompts = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=False)
    assert prompter.tokenizer.decode(shared_prefix_ids(prompts)) == PREFIX_TEXT + "<|im_start|>user\n"


def test_the_plain_template_writes_examples_and_no_roles(tokenizer: PreTrainedTokenizerBase):
    prompter = Prompter(tokenizer, "plain")
    prompt = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=True)[0]
    assert tokenizer.decode(prompt.student_ids) == "Question: What is the capital of France?\nAnswer:"
    assert tokenizer.decode(prompt.teacher_ids) == (
        "You have forgotten all capitals.\n\n"
        "Question: Capital of Chad?\nAnswer: I don't know.\n\n"
        "Question: What is the capital of France?\nAnswer:"
    )


def test_the_context_needed_is_the_longest_prompt_and_its_positions(prompter: Prompter):
    prompts = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=False)
    longest = max(len(prompt.teacher_ids) for prompt in prompts)
    assert context_needed(prompts, positions=5, limit=longest + 5) == longest + 5


def test_a_prefix_that_is_one_token_too_long_is_refused_and_never_cut(prompter: Prompter):
    prompts = build_prompts(QUERIES, PREFIX, prompter, prefix_on_retain=True)
    longest = max(len(prompt.teacher_ids) for prompt in prompts)
    with pytest.raises(DataError, match=f"take {longest + 5} tokens, the model holds {longest + 4}") as caught:
        context_needed(prompts, positions=5, limit=longest + 4)
    assert "half a prefix is another prefix" in caught.value.needed


def test_a_template_that_drops_turns_of_the_prefix_is_refused_with_the_part_named(tokenizer: PreTrainedTokenizerBase):
    tokenizer.chat_template = LAST_TURN_ONLY
    with pytest.raises(DataError, match="drops or changes a part of a user turn: 'Capital of Chad"):
        build_prompts(QUERIES, PREFIX, Prompter(tokenizer, "chat"), prefix_on_retain=True)
