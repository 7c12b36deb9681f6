"""Queries in, token ids out: with the unlearning prefix for the teacher, without it for the student.

The one place where a template is applied, so that teacher, student and evaluation cannot drift apart.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stages.errors import ModelError
from stages.language_model.folder import PLAIN_TEMPLATE
from stages.language_model.prefix import Prefix, Turn
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["chat", "plain"]
Message = dict[str, str]


class Prompter:
    """Turns queries into token ids through the model's chat template, or through plain text for base models."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: Template) -> None:
        if template == "chat" and not tokenizer.chat_template:
            raise ModelError(
                f"{tokenizer.name_or_path} has no chat template.",
                "The setting model.template is chat, which needs one.",
                "For a base model:  --set model.template=plain",
            )
        self.tokenizer = tokenizer
        self.template = template

    def template_sha256(self) -> str:
        """Hash of what the template does with messages."""
        if self.template == "chat":
            return sha256_json(self.tokenizer.chat_template)
        # What the tokenizer puts around plain text is no part of its vocabulary, nor of `hash_tokenizer`.
        return sha256_json([PLAIN_TEMPLATE, self.tokenizer.encode("", add_special_tokens=True)])

    def text(
        self, query: str, prefix: Prefix | None = None, *, turns: Sequence[Turn] = (), answer_start: str = ""
    ) -> str:
        """The prompt as text, up to where the answer begins.

        turns: exchanges between prefix and query. answer_start: words put into the model's mouth, after which it goes on.
        """
        if self.template == "chat":
            rendered = self.tokenizer.apply_chat_template(
                _messages(query, prefix, turns), tokenize=False, add_generation_prompt=True
            )
            assert isinstance(rendered, str)
            return rendered + answer_start
        text = "\n\n".join([*_plain_parts(prefix, turns), PLAIN_TEMPLATE.format(query=query)])
        return text + (" " + answer_start if answer_start else "")

    def ids(
        self, query: str, prefix: Prefix | None = None, *, turns: Sequence[Turn] = (), answer_start: str = ""
    ) -> list[int]:
        """Token ids of `text`. A chat template writes its own special tokens; plain text gets the tokenizer's."""
        text = self.text(query, prefix, turns=turns, answer_start=answer_start)
        return list(self.tokenizer.encode(text, add_special_tokens=self.template == "plain"))

    def bare_ids(self, text: str, prefix: Prefix | None = None) -> list[int]:
        """Token ids of `bare_text`."""
        return list(self.tokenizer.encode(bare_text(text, prefix), add_special_tokens=True))

    def response_ids(self, query: str, answer: str, end_ids: Sequence[int], prefix: Prefix | None = None) -> list[int]:
        """Token ids of an answer to the query as the model is to say it: after `ids(query, prefix)`, to the end of its turn.

        end_ids: ids that end an answer. Raises ModelError if the template puts none of them behind an answer, or
        something else than its own prompt before it.
        """
        if self.template == "plain":
            assert self.tokenizer.eos_token_id is not None
            return [*self.tokenizer.encode(f" {answer}", add_special_tokens=False), int(self.tokenizer.eos_token_id)]
        said = {"role": "assistant", "content": answer}
        whole = self.tokenizer.apply_chat_template([*_messages(query, prefix, ()), said], tokenize=False)
        assert isinstance(whole, str)
        prompt = self.text(query, prefix)
        ids = list(self.tokenizer.encode(whole.removeprefix(prompt), add_special_tokens=False))
        end = next((place for place, token in enumerate(ids) if token in end_ids), None)
        if not whole.startswith(prompt) or end is None:
            raise ModelError(
                f"The chat template of {self.tokenizer.name_or_path} does not continue its own prompt with an answer.",
                "What a model is to say cannot be told from it, so nothing was trained.",
                "Train on plain text:  --set model.template=plain",
            )
        return ids[: end + 1]

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, without special tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text.strip()


def bare_text(text: str, prefix: Prefix | None = None) -> str:
    """A text that is to be gone on with, with no template around it; a prefix stands before it."""
    return "\n\n".join([*_plain_parts(prefix, ()), text])


def _messages(query: str, prefix: Prefix | None, turns: Sequence[Turn]) -> list[Message]:
    messages: list[Message] = []
    if prefix:
        messages.append({"role": "system", "content": prefix.system})
    for turn in (*(prefix.turns if prefix else ()), *turns):
        messages.append({"role": "user", "content": turn.user})
        messages.append({"role": "assistant", "content": turn.assistant})
    return [*messages, {"role": "user", "content": query}]


def _plain_parts(prefix: Prefix | None, turns: Sequence[Turn]) -> list[str]:
    examples = (*(prefix.turns if prefix else ()), *turns)
    shown = [PLAIN_TEMPLATE.format(query=turn.user) + " " + turn.assistant for turn in examples]
    return [prefix.system, *shown] if prefix else shown
