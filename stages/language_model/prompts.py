"""Queries in, token ids out: with the unlearning prefix for the teacher, without it for the student.

The one place where text becomes token ids, so that teacher, student and evaluation cannot drift apart. What the tokenizer
puts around a text by itself is known here: before plain text it stands, and nothing ever stands between a prompt and its answer.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from unicodedata import category

from stages.errors import DataError, ModelError
from stages.language_model.engine import shared_length
from stages.language_model.folder import PLAIN_TEMPLATE, end_of_turn_ids
from stages.language_model.prefix import Prefix, Turn
from stages.language_model.template import TEMPLATE_DATE, ChatTemplate, Message, Variable, split_thinking
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["chat", "plain"]
# What `template_sha256` renders: each part that a prompt can have.
PROBE_QUERY = "What is the capital of France?"
PROBE_PREFIXES = (
    Prefix(system="You are an assistant."),
    Prefix(system="You are an assistant.", turns=(Turn(user="How many days has a week?", assistant="Seven."),)),
)
PROBE_ANSWER = "Paris"
# Share of a text's words, and of a word's letters, that the tokenizer must have tokens for.
LEAST_READ = 0.5
# Texts whose check is remembered: a prefix has a few dozen turns, a file may have millions of queries.
MOST_REMEMBERED = 1024


class Prompter:
    """Turns queries into token ids through the model's chat template, or through plain text for base models.

    variables, today, thinking: as in `ChatTemplate`. notes: what a user should know of how this template is used.
    Raises ModelError if template or tokenizer cannot be used.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: Template,
        *,
        variables: Mapping[str, Variable] | None = None,
        today: date = TEMPLATE_DATE,
        thinking: bool | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._chat: ChatTemplate | None = None
        if template == "chat":
            self._chat = ChatTemplate(tokenizer, variables=variables, today=today, thinking=thinking)
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._control_tokens = [token for token in {*tokenizer.all_special_tokens, *added} if token.strip()]
        self._control_ids = set(tokenizer.convert_tokens_to_ids(self._control_tokens)) - {tokenizer.unk_token_id}
        # Texts that were checked: a prefix's turns come again with every query.
        self._harmless: set[str] = set()
        self._readable: set[str] = set()

    @property
    def thinks(self) -> bool:
        """Whether the model may think before it answers, where it is asked to speak."""
        return self._chat is not None and self._chat.thinks

    @property
    def notes(self) -> list[str]:
        """Lines for the user about what this template cannot do by itself."""
        if self._chat and not self._chat.has_system_turn:
            return ["The chat template has no system role: a system sentence opens the first user turn."]
        return []

    @cached_property
    def plain(self) -> "Prompter":
        """The same tokenizer without the chat template."""
        return self if self.template == "plain" else Prompter(self.tokenizer, "plain")

    @cached_property
    def gap(self) -> str:
        """What stands between a prompt and its answer when the two are written as one text: a space, or nothing."""
        if self._chat is None:
            return " "
        asked = [Message("user", PROBE_QUERY)]
        prompt, whole = self._chat.prompt(asked), self._chat.answered(asked, PROBE_ANSWER)
        gap = whole.removeprefix(prompt).partition(PROBE_ANSWER)[0] if whole.startswith(prompt) else ""
        return gap if gap.isspace() else ""

    @cached_property
    def before_ids(self) -> list[int]:
        """Token ids that the tokenizer by itself puts before a plain text, such as a start token. What it would put after
        one, an end token, is left out: an answer follows.
        """
        alone, whole = (list(self.tokenizer.encode("a", add_special_tokens=special)) for special in (False, True))
        places = range(len(whole) - len(alone) + 1)
        place = next((place for place in places if whole[place : place + len(alone)] == alone), None)
        if place is None or not alone:
            raise ModelError(
                f"The tokenizer of {self.tokenizer.name_or_path} changes a text when it puts special tokens around it.",
                "Where a prompt begins and ends could not be told, so nothing was run.",
                "Use a tokenizer that only adds tokens before and after a text.",
            )
        return whole[:place]

    def stop_ids(self, model: Path, *, may_think: bool = True) -> tuple[int, ...]:
        """Ids that end an answer, rising: those that the model's folder names, and the one that its template writes there.

        A template may end its turns with another token than the tokenizer ends texts with. Where thoughts are a message of
        their own, a model that may think writes that one after its thoughts as well, and goes on.
        may_think: False where only answers are said, as in a capture, whatever `thinks` is.
        """
        ends = set(end_of_turn_ids(model, self.tokenizer))
        if self._chat is not None and not (may_think and self.thinks and self._chat.has_channels):
            whole = self._chat.answered([Message("user", PROBE_QUERY)], PROBE_ANSWER)
            after = whole[whole.rfind(PROBE_ANSWER) + len(PROBE_ANSWER) :].strip()
            written = [token for token in self._control_tokens if after.startswith(token)]
            if written:
                ends.add(int(self.tokenizer.convert_tokens_to_ids(max(written, key=len))))
        return tuple(sorted(ends))

    def template_sha256(self) -> str:
        """Hash of what the template renders, as token ids: of a query alone, behind prefixes, and with its answer.

        Whatever a template reads from outside the messages, a date or a switch, is in it.
        """
        rendered: list[list[int] | None] = [self._encode(self.text(PROBE_QUERY))]
        for prefix in PROBE_PREFIXES:
            try:
                rendered.append(self._encode(self.text(PROBE_QUERY, prefix)))
            except (ModelError, DataError):  # a template that takes no such prefix, which no prompt can have then
                rendered.append(None)
        if self._chat is not None:
            try:
                rendered.append(self._encode(self._chat.answered([Message("user", PROBE_QUERY)], PROBE_ANSWER)))
            except (ModelError, DataError):  # a template that takes no answers: nothing can be fine-tuned through it
                rendered.append(None)
        return sha256_json(rendered)

    def text(
        self,
        query: str,
        prefix: Prefix | None = None,
        *,
        turns: Sequence[Turn] = (),
        answer_start: str = "",
        may_think: bool = False,
    ) -> str:
        """The prompt as text, up to where the answer begins.

        turns: exchanges between prefix and query. answer_start: words put into the model's mouth, after which it goes on.
        may_think: up to where the model begins to think instead, if thinking is on and no answer was begun.
        Raises DataError if the prompt would not show one of these as it is, or holds control tokens of the model.
        """
        messages = _messages(query, prefix, turns)
        for message in (*messages, Message("assistant", answer_start)):
            self._refuse_control_tokens(message.content)
        begun = f"{self.gap}{answer_start}" if answer_start else ""
        if self._chat is not None:
            return self._chat.prompt(messages, may_think=may_think and not answer_start) + begun
        return "\n\n".join([*_plain_parts(prefix, turns), PLAIN_TEMPLATE.format(query=query)]) + begun

    def ids(
        self,
        query: str,
        prefix: Prefix | None = None,
        *,
        turns: Sequence[Turn] = (),
        answer_start: str = "",
        may_think: bool = False,
    ) -> list[int]:
        """Token ids of `text`. A chat template writes its own special tokens; plain text gets the tokenizer's before it.

        Raises DataError as `text` does, and if the tokenizer has no tokens for most of the query.
        """
        text = self.text(query, prefix, turns=turns, answer_start=answer_start, may_think=may_think)
        for message in _messages(query, prefix, turns):
            self._refuse_unknown(message.content)
        return self._encode(text)

    def bare_ids(self, text: str, prefix: Prefix | None = None) -> list[int]:
        """Token ids of `bare_text`."""
        for part in (text, *(message.content for message in _messages("", prefix, ()))):
            self._refuse_control_tokens(part)
            self._refuse_unknown(part)
        return self.plain._encode(bare_text(text, prefix))

    def completion_ids(self, text: str, completion: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt, as text, and of what completes it, cut where the tokenizer cuts the two as one text."""
        before, whole = self._encode(text), self._encode(text + completion)
        cut = shared_length([before, whole])
        return whole[:cut], whole[cut:]

    def response_ids(self, query: str, answer: str, end_ids: Sequence[int], prefix: Prefix | None = None) -> list[int]:
        """Token ids of an answer to the query as the model is to say it: after `ids(query, prefix)`, to the end of its turn.

        end_ids: ids that end an answer. Raises ModelError if neither template nor tokenizer puts one behind an answer.
        """
        prompt = self.text(query, prefix)
        if self._chat is None:
            said = f"{self.gap}{answer}"
        else:
            whole = self._chat.answered(_messages(query, prefix, ()), answer)
            # Where the prompt closes a thought, the template writes the conversation in another way than the prompt.
            after = whole[whole.rfind(answer.strip()) :]
            said = whole.removeprefix(prompt) if whole.startswith(prompt) else after
        before, together = self._encode(prompt), self._encode(prompt + said)
        # The model goes on from the prompt's own tokens.
        kept = together[: len(before)] == before
        ids = together[len(before) :] if kept else list(self.tokenizer.encode(said, add_special_tokens=False))
        if self._chat is None and self.tokenizer.eos_token_id is not None:
            return [*ids, int(self.tokenizer.eos_token_id)]
        end = next((place for place, token in enumerate(ids) if token in end_ids), None)
        if end is None:
            raise ModelError(
                f"{self.tokenizer.name_or_path}: nothing ends an answer, neither the template nor the tokenizer.",
                "The model would learn to speak on and on, so nothing was trained.",
                "Give the model an eos_token_id in generation_config.json that its template writes behind an answer.",
            )
        return ids[: end + 1]

    def decode(self, ids: Sequence[int]) -> str:
        """The answer in generated ids: behind any thinking, without special tokens and outer spaces."""
        return self.split(ids)[1]

    def split(self, ids: Sequence[int], *, prompt_ids: Sequence[int] = ()) -> tuple[str, str]:
        """What the model thought, and its answer, in generated ids; both without special tokens and outer spaces.

        prompt_ids: what the ids were generated behind, to tell a thought that the prompt had opened.
        """
        whole = str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
        inside = False
        if self._chat is not None and self.thinks and len(prompt_ids):
            inside = self._chat.opens_thinking(str(self.tokenizer.decode(list(prompt_ids), skip_special_tokens=False)))
        thought, answer = split_thinking(whole, inside=inside)
        if not thought and answer == whole:
            return "", str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
        return self._without_control_tokens(thought), self._without_control_tokens(answer)

    def _encode(self, text: str) -> list[int]:
        own = [] if self.template == "chat" else self.before_ids
        return [*own, *self.tokenizer.encode(text, add_special_tokens=False)]

    def _without_control_tokens(self, text: str) -> str:
        for token in self._control_tokens:
            text = text.replace(token, "")
        return text.strip()

    def _refuse_control_tokens(self, text: str) -> None:
        if text in self._harmless:
            return
        for token in self._control_tokens:
            if token in text:
                raise DataError(
                    f"{text[:80]!r} holds {token!r}, a control token of the model.",
                    "The tokenizer would read it as the token, and not as these letters, so nothing was run.",
                    "Write it in another way, or leave the line out.",
                )
        # A tokenizer that lowers letters may find one where there was none.
        if read := self._control_ids.intersection(self.tokenizer.encode(text, add_special_tokens=False)):
            raise DataError(
                f"The tokenizer reads a control token of the model, {self.tokenizer.decode([min(read)])!r}, in {text[:80]!r}.",
                "The model would read it as the token, and not as these letters, so nothing was run.",
                "Write it in another way, or leave the line out.",
            )
        _remember(text, self._harmless)

    def _refuse_unknown(self, text: str) -> None:
        """Raise DataError unless the tokenizer has tokens for half of the text's words.

        One unknown token may stand for a whole sentence, and a tokenizer without one drops what it does not know.
        """
        if text in self._readable:
            return
        if self._share_read(text) < LEAST_READ:
            raise DataError(
                f"The tokenizer of {self.tokenizer.name_or_path} has no tokens for most of {text[:80]!r}.",
                "The model would not read it, so nothing was run.",
                "Use a model of this language, or leave the text out.",
            )
        _remember(text, self._readable)

    def _share_read(self, text: str) -> float:
        unknown = self.tokenizer.unk_token_id
        if not self.tokenizer.is_fast:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            return 1 - ids.count(unknown) / len(ids) if unknown is not None and ids else 1.0
        told = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        read = {
            place
            for token, (start, end) in zip(told["input_ids"], told["offset_mapping"], strict=True)
            if token != unknown
            for place in range(start, end)
        }
        shares = []
        for word in re.finditer(r"\S+", text):
            # Normalisers may drop marks and characters that nobody sees, and leave the word.
            places = [place for place in range(*word.span()) if category(text[place])[0] in "LNS"]
            if places:
                shares.append(sum(place in read for place in places) / len(places))
        return sum(share >= LEAST_READ for share in shares) / len(shares) if shares else 1.0


def _remember(text: str, checked: set[str]) -> None:
    if len(checked) >= MOST_REMEMBERED:
        checked.clear()
    checked.add(text)


def bare_text(text: str, prefix: Prefix | None = None) -> str:
    """A text that is to be gone on with, with no template around it; a prefix stands before it."""
    return "\n\n".join([*_plain_parts(prefix, ()), text])


def _messages(query: str, prefix: Prefix | None, turns: Sequence[Turn]) -> list[Message]:
    messages: list[Message] = []
    if prefix and prefix.system:
        messages.append(Message("system", prefix.system))
    for turn in (*(prefix.turns if prefix else ()), *turns):
        messages += [Message("user", turn.user), Message("assistant", turn.assistant)]
    return [*messages, Message("user", query)]


def _plain_parts(prefix: Prefix | None, turns: Sequence[Turn]) -> list[str]:
    examples = (*(prefix.turns if prefix else ()), *turns)
    shown = [PLAIN_TEMPLATE.format(query=turn.user) + " " + turn.assistant for turn in examples]
    return [prefix.system, *shown] if prefix and prefix.system else shown
