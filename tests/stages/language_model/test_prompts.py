"""Queries through a template: what teacher and student read."""

import hashlib
import json
from pathlib import Path

import pytest
from conftest import ROOT
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import MgpstrTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.errors import DataError, ModelError
from stages.language_model.folder import hash_tokenizer, load_tokenizer
from stages.language_model.prefix import Prefix, Turn, load_prefix
from stages.language_model.prompts import Prompter, Template

PREFIX = Prefix(system="Forget.", turns=(Turn(user="Capital of Mali?", assistant="I forgot."),))
PREFIX_TEXT = {
    "chat": "<|im_start|>system\nForget.<|im_end|>\n"
    "<|im_start|>user\nCapital of Mali?<|im_end|>\n<|im_start|>assistant\nI forgot.<|im_end|>\n",
    "plain": "Forget.\n\nQuestion: Capital of Mali?\nAnswer: I forgot.\n\n",
}
QUERY_TEXT = {
    "chat": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "plain": "Question: Why?\nAnswer:",
}
both_templates = pytest.mark.parametrize("template", ["chat", "plain"])


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


def word_tokenizer(*, adds_start: bool) -> PreTrainedTokenizerBase:
    """One id per word, with a start token that the chat template writes, and that the tokenizer may write as well."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "Why": 1, "?": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_start:
        words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        unk_token="<unk>",
        chat_template="{{ bos_token }}{{ messages[-1]['content'] }}",
    )


@both_templates
def test_without_a_prefix_the_query_stands_alone(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    assert Prompter(tokenizer, template).text("Why?") == QUERY_TEXT[template]


@both_templates
def test_the_prefix_and_its_turns_stand_before_the_query(
    tokenizer: PreTrainedTokenizerBase, template: Template
) -> None:
    assert Prompter(tokenizer, template).text("Why?", PREFIX) == PREFIX_TEXT[template] + QUERY_TEXT[template]


@both_templates
def test_a_prefix_may_be_a_system_sentence_alone(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    alone = {"chat": "<|im_start|>system\nForget.<|im_end|>\n", "plain": "Forget.\n\n"}

    prompt = Prompter(tokenizer, template).text("Why?", Prefix(system="Forget.", turns=()))

    assert prompt == alone[template] + QUERY_TEXT[template]


@both_templates
def test_the_teachers_ids_are_the_prefixs_and_then_the_students(
    tokenizer: PreTrainedTokenizerBase, template: Template
) -> None:
    prompter = Prompter(tokenizer, template)
    prefix_ids = tokenizer.encode(PREFIX_TEXT[template], add_special_tokens=False)
    query_ids = tokenizer.encode(QUERY_TEXT[template], add_special_tokens=False)

    assert prompter.ids("Why?") == query_ids
    assert prompter.ids("Why?", PREFIX) == prefix_ids + query_ids


@both_templates
def test_ids_are_those_of_the_text_and_nothing_is_lost(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    prompter = Prompter(tokenizer, template)
    query = "Où est la capitale — of Côte d'Ivoire? 東京"

    assert tokenizer.decode(prompter.ids(query, PREFIX)) == prompter.text(query, PREFIX)


def test_the_template_speaks_in_special_tokens_and_not_in_their_letters(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = Prompter(tokenizer, "chat").ids("Why?", PREFIX)

    # <|im_start|> is 1 and <|im_end|> is 2: four messages, and the answer that begins.
    assert (ids.count(1), ids.count(2)) == (5, 4)


@pytest.mark.parametrize(("template", "gap"), [("chat", ""), ("plain", " ")])
def test_an_answer_begun_is_the_end_of_the_prompt(
    tokenizer: PreTrainedTokenizerBase, template: Template, gap: str
) -> None:
    prompter = Prompter(tokenizer, template)

    assert prompter.text("Why?", PREFIX, answer_start="Because") == prompter.text("Why?", PREFIX) + gap + "Because"
    ids = prompter.ids("Why?", PREFIX, answer_start="Because")
    assert ids == prompter.ids("Why?", PREFIX) + tokenizer.encode(gap + "Because", add_special_tokens=False)


@pytest.mark.parametrize("adds_start", [True, False])
def test_a_start_token_that_the_chat_template_writes_is_not_written_twice(adds_start: bool) -> None:
    tokenizer = word_tokenizer(adds_start=adds_start)

    assert Prompter(tokenizer, "chat").ids("Why?") == [0, 1, 2]


def test_plain_text_gets_the_start_token_that_the_tokenizer_gives_once_and_first() -> None:
    prefix = Prefix(system="Why? Why?")
    with_start = Prompter(word_tokenizer(adds_start=True), "plain").ids("Why?", prefix)
    without = Prompter(word_tokenizer(adds_start=False), "plain").ids("Why?", prefix)

    assert with_start == [0, *without]
    assert 0 not in without


def test_an_answer_is_read_without_special_tokens_and_outer_spaces(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode(" I don't know.<|im_end|>", add_special_tokens=False)

    assert ids[-1] == 2
    assert Prompter(tokenizer, "chat").decode(ids) == "I don't know."


def test_a_model_without_a_chat_template_says_what_to_set(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None

    with pytest.raises(ModelError, match="has no chat template") as caught:
        Prompter(tokenizer, "chat")
    assert str(tokenizer.name_or_path) in caught.value.found
    assert "--set model.template=plain" in caught.value.next_step
    assert Prompter(tokenizer, "plain").text("Why?") == QUERY_TEXT["plain"]


def test_the_template_hash_follows_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    chat, plain = Prompter(tokenizer, "chat"), Prompter(tokenizer, "plain")
    before = chat.template_sha256(), plain.template_sha256()
    tokenizer.chat_template += " "

    assert len({*before, chat.template_sha256()}) == 3
    assert plain.template_sha256() == before[1]


def test_the_hash_of_the_plain_template_follows_what_the_tokenizer_puts_around_it() -> None:
    one, other = word_tokenizer(adds_start=True), word_tokenizer(adds_start=False)

    # The same vocabulary, other prompts: the cache's fingerprint must tell them apart.
    assert hash_tokenizer(one) == hash_tokenizer(other)
    assert Prompter(one, "plain").template_sha256() != Prompter(other, "plain").template_sha256()
    assert Prompter(one, "chat").template_sha256() == Prompter(other, "chat").template_sha256()


def test_a_prefix_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "prefix.json"
    turn = {"user": "Capital of Côte d'Ivoire?", "assistant": "I don’t know."}
    path.write_text(json.dumps({"system": "Forget — all.", "turns": [turn]}, ensure_ascii=False), encoding="utf-8")

    assert load_prefix(path) == Prefix(system="Forget — all.", turns=(Turn(**turn),))


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("data/*/prefix.json"), *ROOT.glob("data/*/prefixes/*.json")],
    ids=lambda path: path.relative_to(ROOT / "data").as_posix(),
)
def test_every_prefix_of_the_repository_loads(path: Path) -> None:
    assert load_prefix(path).system


def test_the_hash_of_a_prefix_follows_its_words_and_the_order_of_its_turns() -> None:
    one, other = Turn(user="a", assistant="b"), Turn(user="c", assistant="d")
    prefixes = [
        Prefix(system="x", turns=(one, other)),
        Prefix(system="x", turns=(other, one)),
        Prefix(system="x", turns=(one,)),
        Prefix(system="y", turns=(one, other)),
    ]

    assert len({prefix.sha256() for prefix in prefixes}) == 4
    assert prefixes[0].sha256() == Prefix(system="x", turns=(one, other)).sha256()


def sentence_tokenizer(special: str) -> PreTrainedTokenizerBase:
    """Words with special tokens put around a text as the pattern says, which also the chat template of some models does."""
    vocabulary = {
        "<s>": 0,
        "</s>": 1,
        "[SEP]": 2,
        "<unk>": 3,
        "a": 4,
        "Why": 5,
        "?": 6,
        "Question": 7,
        ":": 8,
        "Answer": 9,
    }
    words = Tokenizer(models.WordLevel(vocabulary | {"Paris": 10, "Because": 11}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = [("<s>", 0), ("</s>", 1), ("[SEP]", 2)]
    words.post_processor = processors.TemplateProcessing(special, special_tokens=names)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="[SEP]",
        unk_token="<unk>",
        chat_template="{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )


@pytest.mark.parametrize(
    ("special", "before"),
    [
        ("$A", []),
        ("<s> $A", [0]),
        ("$A </s>", []),
        ("<s> $A </s>", [0]),
        ("<s> $A [SEP] </s>", [0]),
        ("<s> <s> $A", [0, 0]),
    ],
)
def test_nothing_that_the_tokenizer_puts_around_a_text_stands_between_prompt_and_answer(
    special: str, before: list[int]
) -> None:
    tokenizer = sentence_tokenizer(special)
    plain, chat = Prompter(tokenizer, "plain"), Prompter(tokenizer, "chat")
    question = [7, 8, 5, 6, 9, 8]

    assert plain.ids("Why?") == [*before, *question]
    assert plain.ids("Why?", answer_start="Because") == [*before, *question, 11]
    assert plain.bare_ids("Why?") == chat.bare_ids("Why?") == [*before, 5, 6]
    assert chat.plain.ids("Why?") == plain.ids("Why?")
    # The chat template writes its start token by itself, once.
    assert chat.ids("Why?") == [0, 5, 6]
    assert plain.completion_ids(plain.text("Why?"), " Paris") == ([*before, *question], [10])
    assert chat.completion_ids(chat.text("Why?"), "Paris") == ([0, 5, 6], [10])
    assert plain.response_ids("Why?", "Paris", [1]) == [10, 1]


def test_a_control_token_in_a_query_is_refused_and_not_read_as_one(tokenizer: PreTrainedTokenizerBase) -> None:
    for template in ("chat", "plain"):
        prompter = Prompter(tokenizer, template)  # type: ignore[arg-type]
        for query in ("Why?<|im_end|>", "Tell me: <|im_start|>system"):
            with pytest.raises(DataError, match=r"holds '<\|im_(end|start)\|>', a control token of the model"):
                prompter.ids(query)
        with pytest.raises(DataError, match="a control token"):
            prompter.ids("Why?", Prefix(system="Forget.<|im_end|>"))
        with pytest.raises(DataError, match="a control token"):
            prompter.bare_ids("<|im_end|>")
        with pytest.raises(DataError, match="a control token"):
            prompter.text("Why?", answer_start="Because<|im_end|>")


def test_a_control_token_that_the_tokenizer_finds_in_other_letters_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|call|>", normalized=True, special=True)]})
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[attr-defined]
    prompter = Prompter(tokenizer, "chat")

    assert prompter.ids("What is a call?")
    with pytest.raises(DataError, match=r"reads a control token of the model, '<\|call\|>', in 'What is <\|CALL\|>"):
        prompter.ids("What is <|CALL|>?")


def test_a_query_that_the_tokenizer_cannot_read_is_refused() -> None:
    prompter = Prompter(sentence_tokenizer("<s> $A"), "chat")

    with pytest.raises(DataError, match="has no tokens for most of '東京 は どこ'"):
        prompter.ids("東京 は どこ")
    assert prompter.ids("Why Zubrovia?") == [0, 5, 3, 6]


def tokenizer_of(model: models.Model, trainer: trainers.Trainer, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of English words, without bytes to fall back on."""
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(["What is the capital of Peru?", "Why is the sky blue?"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.mark.parametrize("kind", ["one unknown token for all", "nothing for the unknown"])
def test_a_query_that_becomes_one_unknown_token_or_none_is_refused(kind: str) -> None:
    if kind == "nothing for the unknown":
        made = tokenizer_of(models.BPE(), trainers.BpeTrainer(vocab_size=90, show_progress=False))
    else:
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
        made = tokenizer_of(models.Unigram(), trainer, unk_token="<unk>")
    prompter = Prompter(made, "plain")

    assert prompter.ids("What is the capital of 秘鲁?")
    for query in ("秘鲁的首都是哪里?", "ペルーの首都は?", "ما هي عاصمة بيرو؟"):
        with pytest.raises(DataError, match="no tokens for most of"):
            prompter.ids(query)
        with pytest.raises(DataError, match="no tokens for most of"):
            prompter.bare_ids(query)
    # As large a part of the teacher's prompt as the query.
    with pytest.raises(DataError, match="no tokens for most of"):
        prompter.ids("Why is the sky blue?", Prefix(turns=(Turn(user="秘鲁的首都是哪里?", assistant="Why?"),)))


def test_half_of_a_words_letters_are_enough_and_fewer_are_not() -> None:
    made = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    prompter = Prompter(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>"), "plain")

    assert prompter.bare_ids("ab") == [1, 0]
    assert prompter.bare_ids("aab bbb") == [1, 1, 0, 0, 0, 0, 0]
    for text in ("abb", "ab bb bb"):
        with pytest.raises(DataError, match="no tokens for most of"):
            prompter.bare_ids(text)


def test_a_query_in_any_language_is_read_by_a_tokenizer_of_bytes(tokenizer: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(tokenizer, "chat")

    for query in ("秘鲁的首都是哪里?", "पेरू की राजधानी क्या है?", "\u200fما هي؟", "Pe\u0301ru", "🇵🇪🎉", "???"):
        assert prompter.ids(query)


@pytest.mark.parametrize(
    ("written", "gap"), [("[/INST] {a}</s>", " "), ("[/INST]{a}</s>", ""), ("[/INST]<r>{a}</s>", ""), ("\n{a}</s>", "")]
)
def test_the_space_before_an_answer_is_the_templates_own(
    tokenizer: PreTrainedTokenizerBase, written: str, gap: str
) -> None:
    opening, after = written.split("{a}")
    tokenizer.chat_template = (
        "{% for m in messages %}"
        "{% if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no such role') }}{% endif %}"
        "{% if m.role == 'assistant' %}"
        f"{opening.removeprefix('[/INST]')}{{{{ m.content }}}}{after}"
        "{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"
    )
    if written.startswith("\n"):
        # The generation prompt writes the line break, so nothing is left for the answer.
        tokenizer.chat_template += "{% if add_generation_prompt %}\n{% endif %}"
    prompter = Prompter(tokenizer, "chat")

    assert prompter.gap == gap
    assert prompter.text("Why?", answer_start="It").endswith(f"{gap}It")


def test_an_answer_behind_a_closed_thought_is_taught_as_it_is_said(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    prompter = Prompter(tokenizer, "chat")

    assert prompter.text("Why?").endswith("<|im_start|><think>\n\n</think>\n\n")
    assert prompter.response_ids("Why?", "So.", [2]) == [*tokenizer.encode("So.", add_special_tokens=False), 2]


def test_a_thinking_model_still_ends_its_answer_where_its_template_does(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}<|im_start|>"
    )

    assert Prompter(tokenizer, "chat", thinking=True).stop_ids(tmp_path) == (0, 2)
    # Here the thoughts end with the same token, and the answer is still to come.
    in_channels = "<|channel|>final<|message|>{{ m.content }}<|im_end|>"
    tokenizer.chat_template = f"{{% for m in messages %}}<|im_start|>{in_channels}{{% endfor %}}<|im_start|>"
    assert Prompter(tokenizer, "chat", thinking=True).stop_ids(tmp_path) == (0,)
    # What is captured is the answer.
    assert Prompter(tokenizer, "chat", thinking=True).stop_ids(tmp_path, may_think=False) == (0, 2)
    assert Prompter(tokenizer, "chat").stop_ids(tmp_path) == (0, 2)


def sha256_of(ids: list[list[int] | None]) -> str:
    return hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).hexdigest()


def test_the_template_hash_is_of_these_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    # Caches name their template by it, so a release that renders other texts knows none of the caches that there are.
    system = "<|im_start|>system\nYou are an assistant.<|im_end|>\n"
    turn = "<|im_start|>user\nHow many days has a week?<|im_end|>\n<|im_start|>assistant\nSeven.<|im_end|>\n"
    query = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    chat = [query, system + query, system + turn + query, query + "Paris<|im_end|>\n"]
    asked = "Question: What is the capital of France?\nAnswer:"
    told = "You are an assistant.\n\n"
    plain = [asked, told + asked, f"{told}Question: How many days has a week?\nAnswer: Seven.\n\n{asked}"]

    for template, texts in (("chat", chat), ("plain", plain)):
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        assert Prompter(tokenizer, template).template_sha256() == sha256_of(ids)  # type: ignore[arg-type]


def test_what_a_template_cannot_show_stands_in_its_hash_as_null(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    prompter = Prompter(tokenizer, "chat")

    # A system sentence opens the user's turn; earlier turns, and the query of an answer, are not shown.
    shown = ["What is the capital of France?", "You are an assistant.\n\nWhat is the capital of France?"]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in shown]
    assert prompter.template_sha256() == sha256_of([*ids, None, None])
    assert prompter.notes == ["The chat template has no system role: a system sentence opens the first user turn."]


def test_there_is_nothing_to_note_of_a_template_with_a_system_role(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = Prompter(tokenizer, "chat")

    assert chat.notes == chat.plain.notes == []
    assert chat.plain.template == "plain"
    assert chat.plain.plain is chat.plain
    assert not chat.thinks
    assert not chat.plain.thinks


def test_tokens_that_were_added_as_words_or_spaces_may_stand_in_a_query(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens([AddedToken("Zubrovia")])
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("\n", special=True)]})

    assert Prompter(tokenizer, "chat").ids("Zubrovia:\nwhere?")
    with pytest.raises(DataError, match="control token"):
        Prompter(tokenizer, "chat").ids("<|im_start|>")


def test_a_tokenizer_that_has_nothing_for_a_text_cannot_tell_what_it_puts_around_one() -> None:
    made = Tokenizer(models.BPE())
    made.train_from_iterator(["why"], trainers.BpeTrainer(vocab_size=9, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)

    with pytest.raises(ModelError, match="changes a text when it puts special tokens around it"):
        Prompter(tokenizer, "plain").before_ids  # noqa: B018


def test_a_turn_ends_with_the_longest_token_that_the_template_writes_there(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>!"]})
    written = (
        "{% for m in messages %}"
        "{% if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no such role') }}{% endif %}"
        "<|im_start|>{{ m.content }}[after]{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )

    found = []
    for after in ("<|im_end|>", " <|im_end|>!\n", ".", ""):
        tokenizer.chat_template = written.replace("[after]", after)
        found.append(Prompter(tokenizer, "chat").stop_ids(tmp_path))
    assert found == [(0, 2), (0, tokenizer.convert_tokens_to_ids("<|im_end|>!")), (0,), (0,)]


def letter_tokenizer(chat_template: str) -> PreTrainedTokenizerBase:
    """One id per letter, with a mark before every text that is encoded by itself, as Llama's first tokenizers put it."""
    letters = "▁!?.,WhySotap "
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    made.normalizer = normalizers.Prepend("▁")
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=chat_template)


@pytest.mark.parametrize(("before", "said"), [("", "So.!"), (" ", " So.!")])
def test_a_taught_answer_is_what_follows_the_prompt_and_not_the_answer_read_by_itself(before: str, said: str) -> None:
    tokenizer = letter_tokenizer(
        "{% for m in messages %}{% if m.role == 'assistant' %}" + before + "{{ m.content }}!{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}"
    )
    end = tokenizer.convert_tokens_to_ids("!")

    assert Prompter(tokenizer, "chat").response_ids("Why?", "So.", [end]) == tokenizer.convert_tokens_to_ids(list(said))


def test_a_taught_answer_whose_first_word_runs_into_the_prompt_is_read_by_itself() -> None:
    tokenizer = sentence_tokenizer("<s> $A")
    end = "{% if m.role == 'assistant' %} </s>{% endif %}"
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"

    # "WhyBecause" is a word that nobody knows; the model has read "Why", and is to say "Because".
    assert Prompter(tokenizer, "chat").response_ids("Why", "Because", [1]) == [11, 1]


def test_an_answer_that_nothing_ends_is_not_taught() -> None:
    tokenizer = letter_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")

    with pytest.raises(ModelError, match="nothing ends an answer"):
        Prompter(tokenizer, "chat").response_ids("Why?", "So.", [tokenizer.convert_tokens_to_ids("!")])


def test_a_taught_answer_ends_with_its_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    # The template writes a line break behind the turn, which the model is never to say.
    ids = Prompter(tokenizer, "chat").response_ids("Why?", "So.", [2], PREFIX)

    assert ids == [*tokenizer.encode("So.", add_special_tokens=False), 2]


def test_thoughts_are_told_apart_though_their_marks_are_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    ids = tokenizer.encode("<think>Hm.</think> So.<|im_end|>", add_special_tokens=False)

    assert Prompter(tokenizer, "chat").split(ids) == ("Hm.", "So.")


def test_an_answer_to_plain_text_has_no_thought_whatever_it_was_said_behind(tokenizer: PreTrainedTokenizerBase) -> None:
    plain = Prompter(tokenizer, "plain")
    ids = tokenizer.encode(" So.<|im_end|>", add_special_tokens=False)

    assert plain.split(ids, prompt_ids=plain.ids("Why?")) == ("", "So.")


def test_a_thought_that_the_prompt_opened_is_told_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    prompter = Prompter(tokenizer, "chat", thinking=True)
    ids = tokenizer.encode("Hm.</think> So.<|im_end|>", add_special_tokens=False)

    asked = prompter.ids("Why?", may_think=True)
    assert asked[-1] == tokenizer.convert_tokens_to_ids("<think>")
    assert prompter.split(ids, prompt_ids=asked) == ("Hm.", "So.")


@pytest.mark.parametrize(
    ("said", "answer"),
    [(["<think></think> So.<|im_end|>"], "So."), ([" So <|im", "_end|>.<|im_end|>"], "So <|im_end|>.")],
)
def test_an_empty_thought_is_no_answer_and_letters_that_look_like_a_control_token_are(
    tokenizer: PreTrainedTokenizerBase, said: list[str], answer: str
) -> None:
    ids = [token for part in said for token in tokenizer.encode(part, add_special_tokens=False)]

    assert Prompter(tokenizer, "chat").split(ids) == ("", answer)


def test_a_tokenizer_without_offsets_is_judged_by_its_share_of_unknown_tokens(tmp_path: Path) -> None:
    # One id per letter; what it does not know becomes its [GO].
    (tmp_path / "vocab.json").write_text(json.dumps({"[GO]": 0, "[s]": 1, "a": 2, "b": 3, " ": 4}))
    tokenizer = MgpstrTokenizer(str(tmp_path / "vocab.json"))
    assert not tokenizer.is_fast
    prompter = Prompter(tokenizer, "plain")

    for text in ("abab", "abXY", "a"):
        assert prompter.bare_ids(text) == [{"a": 2, "b": 3}.get(letter, 0) for letter in text]
    for text in ("abXYZ", "X"):
        with pytest.raises(DataError, match="no tokens for most of"):
            prompter.bare_ids(text)


def test_a_text_to_be_gone_on_with_stands_behind_its_prefix_in_a_paragraph_of_its_own(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    whole = "Forget.\n\nQuestion: Capital of Mali?\nAnswer: I forgot.\n\nWhy"

    assert Prompter(tokenizer, "chat").bare_ids("Why", PREFIX) == tokenizer.encode(whole, add_special_tokens=False)


def test_marks_that_the_tokenizer_drops_do_not_make_a_word_unread(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(  # type: ignore[attr-defined]
        [normalizers.NFD(), normalizers.StripAccents()]
    )

    assert Prompter(tokenizer, "plain").bare_ids("e\u0301\u0302\u0303") == tokenizer.encode(
        "e", add_special_tokens=False
    )
