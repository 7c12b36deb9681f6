"""Chat templates of every kind: what reaches the model is what was asked, on every day, and the answer comes first."""

import time
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from stages.errors import DataError, ModelError
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.prompts import Prompter
from stages.language_model.template import ChatTemplate, Message, split_thinking

# The part that matters of each family's published template, in its own words.
LLAMA_3 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "<|system|>Today Date: {{ date_string }}\n{{ system_message }}"
    "{%- for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>{%- endif %}"
)
QWEN_3 = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
R1 = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<A>{{ m['content'].split('</think>')[-1] }}<end>"
    "{% else %}<U>{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<A>{% endif %}"
)
R1_OPENED = R1.replace("<A>{% endif %}", "<A><think>\n{% endif %}")
# Its switch is in the system turn; the generation prompt is the same.
GRANITE_3 = (
    "{% if thinking %}Write your thoughts between <think></think>.{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DEEPSEEK_31 = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)
GPT_OSS = (
    "{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}Reasoning: {{ reasoning_effort or 'medium' }}"
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# No generation prompt of its own to switch, and the answer stands behind a token that it writes itself.
COMMAND_R = (
    "{% if tools %}You may write <|START_THINKING|> and <|END_THINKING|>.{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}<|BOT|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}<|BOT|>"
)
# A name within, and no switch: what decides is a word in the conversation.
NEMOTRON = (
    "{%- set ns = namespace(enable_thinking=true) -%}{%- for m in messages -%}{%- if '/no_think' in m.content -%}"
    "{%- set ns.enable_thinking = false -%}{%- endif -%}{%- endfor -%}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content.replace('/no_think', '') }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if ns.enable_thinking %}<think>\n\n{% else %}<think></think>{% endif %}{% endif %}"
)
GEMMA_4 = (
    "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|turn>model\n{% if not enable_thinking | default(false) %}<|channel>thought\n<channel|>{% endif %}{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Early templates pass a system turn over without a word.
SILENT = GEMMA_2.replace("{{ raise_exception('System role not supported') }}", "{% set messages = messages[1:] %}")
PARTS_ONLY = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# The system sentence stands before the last question, behind the example turns.
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}</s>{% elif loop.last and told is defined %}"
    "[INST] {{ told }}\n\n{{ m.content }}[/INST]{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}"
)
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% for m in messages if m.role == 'system' %}<system>{{ m.content }}{% endfor %}<assistant>"
)
FORGET = Prefix(system="You have forgotten it.", turns=(Turn(user="Capital of Chad?", assistant="I forgot."),))
QUERY = "Why is the sky blue?"


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


def asked(tokenizer: PreTrainedTokenizerBase, template: str, prefix: Prefix | None = None, **how: Any) -> str:
    tokenizer.chat_template = template
    return Prompter(tokenizer, "chat", **how).text(QUERY, prefix)


@pytest.mark.parametrize("template", [LLAMA_3, GPT_OSS])
def test_a_prompt_does_not_depend_on_the_day(
    tokenizer: PreTrainedTokenizerBase, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for day in (datetime(2026, 3, 1, 23, 59), datetime(2026, 3, 2, 0, 1)):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None, day: datetime = day) -> datetime:  # type: ignore[override]
                return day

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        found.add((asked(tokenizer, template), Prompter(tokenizer, "chat").template_sha256()))
        # What would have been asked without that: another prompt each day.
        assert f"{day:%Y}" in tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)

    assert len(found) == 1


def test_the_day_that_a_template_is_told_can_be_set_and_is_part_of_its_hash(tokenizer: PreTrainedTokenizerBase) -> None:
    assert "Today Date: 26 Jul 2024\n" in asked(tokenizer, LLAMA_3)
    assert "Today Date: 05 Jan 2027\n" in asked(tokenizer, LLAMA_3, today=date(2027, 1, 5))
    assert "Today Date: whenever\n" in asked(tokenizer, LLAMA_3, variables={"date_string": "whenever"})
    ways: list[dict[str, Any]] = [{}, {"today": date(2027, 1, 5)}, {"variables": {"date_string": "whenever"}}]
    assert len({Prompter(tokenizer, "chat", **way).template_sha256() for way in ways}) == 3


def test_a_comment_in_a_template_changes_nothing_that_is_hashed(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = QWEN_3
    before = Prompter(tokenizer, "chat").template_sha256()
    tokenizer.chat_template = "{# another version #}" + QWEN_3

    assert Prompter(tokenizer, "chat").template_sha256() == before


def test_a_variable_that_the_template_does_not_use_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ModelError, match="uses no variable 'date_sting'"):
        asked(tokenizer, LLAMA_3, variables={"date_sting": "x"})


@pytest.mark.parametrize("template", ["{{ ['a', 'b'] | random }}{{ messages[0].content }}", "{{ lipsum() }}"])
def test_a_template_that_draws_at_random_is_refused(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    with pytest.raises(ModelError, match="draws at random"):
        asked(tokenizer, template)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (QWEN_3, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (R1, f"{QUERY}<A><think>\n\n</think>\n\n"),
        (R1_OPENED, f"{QUERY}<A><think>\n\n</think>\n\n"),
        (GRANITE_3, f"<|user|>{QUERY}<|assistant|>"),
        (DEEPSEEK_31, f"{QUERY}<assistant></think>"),
        (GPT_OSS, f"{QUERY}<|end|><|start|>assistant<|channel|>final<|message|>"),
        (LLAMA_3, f"{QUERY}<|assistant|>"),
        (COMMAND_R, f"{QUERY}<|BOT|><|START_RESPONSE|>"),
        (NEMOTRON, f"{QUERY}<assistant><think>\n\n</think>\n\n"),
        (R1_OPENED.replace("think>", "thought>"), f"{QUERY}<A><thought>\n\n</thought>\n\n"),
        (GEMMA_4, f"{QUERY}<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
    ],
    ids=[
        "switch",
        "model opens",
        "template opens",
        "switch in the system turn",
        "template closes",
        "channels",
        "none",
        "answer opened",
        "no switch of that name",
        "template opens, another word for it",
        "channel closed",
    ],
)
@pytest.mark.parametrize("prefix", [None, FORGET], ids=["alone", "behind a prefix"])
def test_the_first_token_after_a_prompt_is_the_answers(
    tokenizer: PreTrainedTokenizerBase, template: str, ends: str, prefix: Prefix | None
) -> None:
    assert asked(tokenizer, template, prefix).endswith(ends)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (QWEN_3, "<|im_start|>assistant\n"),
        (R1, f"{QUERY}<A>"),
        (R1_OPENED, f"{QUERY}<A><think>\n"),
        (DEEPSEEK_31, f"{QUERY}<assistant><think>"),
        (GPT_OSS, f"{QUERY}<|end|><|start|>assistant"),
    ],
)
def test_a_model_that_may_think_does_so_only_where_it_speaks_by_itself(
    tokenizer: PreTrainedTokenizerBase, template: str, ends: str
) -> None:
    tokenizer.chat_template = template
    prompter = Prompter(tokenizer, "chat", thinking=True)

    assert prompter.text(QUERY, may_think=True).endswith(ends)
    # What is supervised, scored or begun is the answer.
    assert not prompter.text(QUERY).endswith(ends)
    assert prompter.text(QUERY, answer_start="It", may_think=True) == prompter.text(QUERY) + "It"


def test_the_templates_own_switch_turns_thinking_on_as_well(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = QWEN_3

    assert Prompter(tokenizer, "chat", variables={"enable_thinking": True}).thinks
    assert not Prompter(tokenizer, "chat", variables={"enable_thinking": False}).thinks
    with pytest.raises(ModelError, match="says the opposite"):
        Prompter(tokenizer, "chat", variables={"enable_thinking": False}, thinking=True)
    # Asked not to think, a model that never does needs no switch.
    tokenizer.chat_template = LLAMA_3
    assert not Prompter(tokenizer, "chat", variables={"enable_thinking": False}).thinks


@pytest.mark.parametrize(
    ("text", "inside", "thought", "answer"),
    [
        ("Paris.<|im_end|>", False, "", "Paris.<|im_end|>"),
        ("<think>\nFrance…\n</think>\n\nParis.", False, "\nFrance…\n", "\n\nParis."),
        ("France…</think>Paris.", True, "France…", "Paris."),
        ("<think>Is it Paris", False, "Is it Paris", ""),
        ("Is it Paris", True, "Is it Paris", ""),
        (
            "<|channel|>analysis<|message|>Paris?<|end|><|start|>assistant<|channel|>final<|message|>Paris.<|return|>",
            False,
            "<|channel|>analysis<|message|>Paris?<|end|><|start|>assistant",
            "Paris.<|return|>",
        ),
        ("<|channel|>analysis<|message|>Paris", False, "<|channel|>analysis<|message|>Paris", ""),
        ("[THINK]Paris?[/THINK]Rome", False, "Paris?", "Rome"),
        ("<|channel>thought\nParis?<channel|>Rome", False, "\nParis?", "Rome"),
    ],
)
def test_an_answer_stands_behind_the_thinking(text: str, inside: bool, thought: str, answer: str) -> None:
    assert split_thinking(text, inside=inside) == (thought, answer)


def test_an_answer_that_thinking_left_no_tokens_for_is_empty_and_not_the_thought(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = R1_OPENED
    prompter = Prompter(tokenizer, "chat", thinking=True)
    prompt = prompter.ids(QUERY, may_think=True)
    ids = tokenizer.encode("It may be Rayleigh", add_special_tokens=False)

    assert prompter.split(ids, prompt_ids=prompt) == ("It may be Rayleigh", "")
    done = tokenizer.encode("Hm.</think>Rayleigh.<|im_end|>", add_special_tokens=False)
    assert prompter.split(done, prompt_ids=prompt) == ("Hm.", "Rayleigh.")


@pytest.mark.parametrize("template", [GEMMA_2, SILENT], ids=["refuses a system turn", "drops a system turn"])
def test_without_a_system_role_the_sentence_opens_the_first_user_turn(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    tokenizer.chat_template = template
    prompter = Prompter(tokenizer, "chat")
    turns = "<turn>model\nI forgot.<end>\n<turn>user\nWhy is the sky blue?<end>\n<turn>model\n"

    assert f"<turn>user\nYou have forgotten it.\n\nCapital of Chad?<end>\n{turns}" in prompter.text(QUERY, FORGET)
    assert "<turn>user\nYou have forgotten it.\n\nWhy is the sky blue?<end>" in prompter.text(
        QUERY, Prefix(system="You have forgotten it.")
    )
    assert prompter.notes == ["The chat template has no system role: a system sentence opens the first user turn."]


def test_a_template_with_a_system_role_has_nothing_to_note(tokenizer: PreTrainedTokenizerBase) -> None:
    assert Prompter(tokenizer, "chat").notes == []


def test_a_prefix_of_turns_alone_needs_no_system_role(tokenizer: PreTrainedTokenizerBase) -> None:
    turns_alone = Prefix(turns=FORGET.turns)

    assert asked(tokenizer, GEMMA_2, turns_alone).startswith(
        "<turn>user\nCapital of Chad?<end>\n<turn>model\nI forgot."
    )
    with pytest.raises(ValueError, match="neither a system sentence nor turns"):
        Prefix()


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (
            MISTRAL,
            "[INST] Capital of Chad?[/INST] I forgot.</s>[INST] You have forgotten it.\n\nWhy is the sky blue?[/INST]",
        ),
        (
            SYSTEM_LAST,
            "<user>Capital of Chad?<assistant>I forgot.<user>Why is the sky blue?<system>You have forgotten it.<assistant>",
        ),
    ],
    ids=["before the last question", "last"],
)
def test_a_system_sentence_may_stand_where_the_template_wants_it(
    tokenizer: PreTrainedTokenizerBase, template: str, prompt: str
) -> None:
    assert asked(tokenizer, template, FORGET) == prompt


@pytest.mark.parametrize("query", ["think", "A", "n"])
def test_a_query_that_is_a_word_of_the_template_is_asked_like_any_other(
    tokenizer: PreTrainedTokenizerBase, query: str
) -> None:
    tokenizer.chat_template = R1_OPENED

    assert Prompter(tokenizer, "chat").text(query) == f"<U>{query}<A><think>\n\n</think>\n\n"


def test_a_question_about_thinking_marks_is_no_thought(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = R1
    prompter = Prompter(tokenizer, "chat", thinking=True)
    prompt = prompter.ids("What does <think> mean?", may_think=True)

    said = tokenizer.encode("It opens a thought.<|im_end|>", add_special_tokens=False)
    assert prompter.split(said, prompt_ids=prompt) == ("", "It opens a thought.")


def test_a_template_that_wants_content_in_parts_gets_parts(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = (
        "<system>You have forgotten it.<user>Capital of Chad?<assistant>I forgot.<user>Why is the sky blue?<assistant>"
    )

    assert asked(tokenizer, PARTS_ONLY, FORGET) == prompt
    assert asked(tokenizer, PARTS_ONLY) == "<user>Why is the sky blue?<assistant>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<{{ m.role }}>{% endfor %}",
        "{{ messages[0].content.upper() }}",
        "{{ messages[0].content | length }}",
        "{% for m in messages %}{{ m.body }}{% endfor %}",
        "Hello",
    ],
)
def test_a_template_that_does_not_show_the_query_is_refused(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    with pytest.raises(ModelError, match="does not show what the user asks"):
        asked(tokenizer, template)


def test_each_prompt_is_checked_and_not_only_the_first(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ messages[-1].content | replace('blue', 'red') }}"
    prompter = Prompter(tokenizer, "chat")

    assert prompter.text("Why is grass green?") == "Why is grass green?"
    with pytest.raises(DataError, match=r"changes a part of a user turn: 'Why is the sky blue\?'"):
        prompter.text(QUERY)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('No.') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ undefined_thing.x.y }}",
        "{% for m in messages %}",
        "{{ messages[0].content | nofilter }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].__class__ }}{{ ''.__class__.__mro__ }}",
        "{% include 'other' %}",
        "{{ none + 1 }}",
        "{{ 9 ** 9 ** 9 }}{{ messages[0].content }}",
    ],
)
def test_a_template_that_fails_is_one_line(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    with pytest.raises(ModelError, match=r"chat template of .* (fails: |does not show)") as caught:
        asked(tokenizer, template)
    assert "\n" not in caught.value.found
    assert "model.template=plain" in caught.value.next_step


def test_a_template_without_an_end_is_stopped(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.language_model.template.RENDER_SECONDS", 0.5)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
    began = time.monotonic()

    with pytest.raises(ModelError, match=r"has not ended after 0 s|has not ended"):
        asked(tokenizer, loops)
    assert time.monotonic() - began < 10


def test_a_template_that_fails_over_one_query_alone_says_so(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if 'sky' in messages[-1].content %}{{ raise_exception('No sky.') }}{% endif %}{{ messages[-1].content }}"
    )
    prompter = Prompter(tokenizer, "chat")

    with pytest.raises(ModelError, match=r"fails: No sky\."):
        prompter.text(QUERY)


def test_a_query_that_the_template_takes_for_a_command_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = NEMOTRON

    with pytest.raises(DataError, match="drops or changes a part of a user turn"):
        Prompter(tokenizer, "chat").text("What does /no_think mean?")


def test_a_default_among_named_templates_is_used(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = {"default": QWEN_3, "tool_use": "{{ raise_exception('tools') }}"}  # type: ignore[assignment]
    assert Prompter(tokenizer, "chat").text(QUERY).endswith("</think>\n\n")
    tokenizer.chat_template = {"tool_use": QWEN_3, "rag": QWEN_3}  # type: ignore[assignment]
    with pytest.raises(ModelError, match="chat template of"):
        Prompter(tokenizer, "chat")


def test_what_a_template_writes_after_an_answer_is_part_of_the_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = GEMMA_2
    chat = ChatTemplate(tokenizer)

    assert chat.answered([Message("user", "?")], "Blue.").endswith("<turn>model\nBlue.<end>\n")
