"""A model's chat template: messages in, the prompt as text out, the same text on every day and machine.

Templates differ in what they take (a system turn or none, content as text or as parts), in what they read from outside the
messages (today's date, switches) and in whether the model thinks before it answers. This module finds each out by
rendering, and refuses a template that it cannot use. It knows nothing of tokens.
"""

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from stages.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]
Variable = str | int | float | bool
# What Llama's own template writes where it cannot ask for the date: a constant, so that no prompt depends on the day.
TEMPLATE_DATE = date(2024, 7, 26)
# By these names templates let thinking be switched (Qwen3, SmolLM3, GLM; DeepSeek, Granite).
THINKING_SWITCHES = ("enable_thinking", "thinking")
# What a thinking model writes around its thoughts. A template that knows one of them belongs to such a model.
THINKING_MARKS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("◁think▷", "◁/think▷"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
# gpt-oss thinks in one channel and answers in another.
ANSWER_CHANNEL = "<|channel|>final<|message|>"
# One prompt renders in milliseconds; a template that takes longer has no end.
RENDER_SECONDS = 5.0
# A template is a program that came with the model: it fails in the ways that a program can.
PROGRAM_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError, ImportError,
)  # fmt: skip
# Words that stand in no template.
PROBE_SYSTEM, PROBE_ANSWER = "Zyx probe of the system.", "Zyx probe of an answer."
PROBE_QUERY = "Zyx probe of the query?"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


class ChatTemplate:
    """The chat template of a tokenizer, and how it takes messages.

    variables: passed to the template as they are. today: the day that a template is told if it asks for the date.
    thinking: whether the model may think before it answers; None: if `variables` switch it on, else not.
    has_system_turn: False if the template knows no system role; a system sentence then opens the first user turn.
    Raises ModelError if the template cannot be used, or uses no variable of that name.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        variables: Mapping[str, Variable] | None = None,
        today: date = TEMPLATE_DATE,
        thinking: bool | None = None,
    ) -> None:
        self._tokenizer, self._today = tokenizer, today
        self._name = str(tokenizer.name_or_path)
        self._source = re.sub(r"\{#.*?#\}", "", self._read(), flags=re.DOTALL)
        self._variables = dict(variables or {})
        self._opening = ""
        self.thinks = self._decide_thinking(thinking)
        self._takes_parts = False
        self._find_content_form()
        self.has_system_turn = self._shows(Message("system", PROBE_SYSTEM), Message("user", PROBE_QUERY))
        self._opening = self._find_opening()
        self._end = self._conversation([Message("user", PROBE_QUERY)]).rpartition(PROBE_QUERY)[2]

    @property
    def has_channels(self) -> bool:
        """Whether thoughts and answer are messages of their own, as in gpt-oss."""
        return "<|channel|>" in self._source and "<|message|>" in self._source

    def prompt(self, messages: Sequence[Message], *, may_think: bool = False) -> str:
        """The conversation, up to where the answer begins.

        may_think: up to where the model begins to think instead, if this template is used with thinking.
        Raises ModelError if the template fails, DataError if it does not show every message as it is.
        """
        given = messages if self.has_system_turn else _system_in_first_user_turn(messages)
        text = self._conversation(given)
        self._refuse_lost(given, text)
        return text if self.thinks and may_think else self._behind_thinking(text, given[-1])

    def answered(self, messages: Sequence[Message], answer: str) -> str:
        """The conversation with its answer, and whatever the template writes after one. Raises as `prompt` does."""
        given = messages if self.has_system_turn else _system_in_first_user_turn(messages)
        whole = [*given, Message("assistant", answer)]
        text = self._conversation(whole)
        self._refuse_lost(whole, text)
        return text

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends inside a thought that the model is to go on with. A query may hold the same mark."""
        return any(prompt.rstrip().endswith(opening) for opening, _ in THINKING_MARKS)

    def _read(self) -> str:
        if not self._tokenizer.chat_template:
            raise ModelError(
                f"{self._name} has no chat template.",
                "The setting model.template is chat, which needs one.",
                "For a base model:  --set model.template=plain",
            )
        try:
            source: str = self._tokenizer.get_chat_template()
        except ValueError as error:
            raise self._unusable(error) from error
        # Whatever is drawn at random would differ between teacher and student, and from one day to the next.
        if drawn := re.search(r"\|\s*random\b|\blipsum\s*\(", source):
            raise ModelError(
                f"The chat template of {self._name} draws at random ({drawn[0].strip()}).",
                "Teacher, student and evaluation would each read another prompt, so nothing was run.",
                "Use a template without it, or:  --set model.template=plain",
            )
        return source

    def _decide_thinking(self, wanted: bool | None) -> bool:
        """Whether the model may think; sets the template's own switch if it has one. Checks all variables' names."""
        used = self._names_used()
        switches = [name for name in THINKING_SWITCHES if name in used]
        given = next((self._variables[name] for name in THINKING_SWITCHES if name in self._variables), None)
        if wanted is not None and given is not None and bool(given) != wanted:
            raise ModelError(
                f"model.thinking is {str(wanted).lower()}, and model.template_variables says the opposite.",
                "One of them decides whether the model thinks before it answers.",
                "Leave one of the two out.",
            )
        thinks = bool(given) if wanted is None else wanted
        for name in self._variables:
            # A model without a switch may still be asked not to think: then there is nothing to switch off.
            if name not in used and not (name in THINKING_SWITCHES and not self._variables[name]):
                raise ModelError(
                    f"The chat template of {self._name} uses no variable {name!r}.",
                    "It was given under model.template_variables and would change nothing, so nothing was run.",
                    "Take it out, or correct its name.",
                )
        self._has_switch = bool(switches)
        for name in switches:
            self._variables.setdefault(name, thinks)
        return thinks

    def _names_used(self) -> set[str]:
        """Variables that the template reads and does not set by itself."""
        from jinja2 import TemplateError, meta, nodes
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
        # transformers' own tag around what a model has said.
        plain = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", self._source)
        try:
            parsed = environment.parse(plain)
            # One power can take for ever, and cannot be stopped as a loop can. No prompt needs one.
            if parsed.find(nodes.Pow) is not None:
                raise ValueError("it computes a power, which may never end")
            return set(meta.find_undeclared_variables(parsed))
        except (TemplateError, *PROGRAM_FAULTS) as error:
            raise self._unusable(error) from error

    def _find_content_form(self) -> None:
        """Content as text, or as a list of parts: the first that the template shows."""
        query = Message("user", PROBE_QUERY)
        if self._shows(query):
            return
        self._takes_parts = True
        if not self._shows(query):
            self._takes_parts = False
            # As text once more, for what the template itself has to say.
            self._conversation([query])
            raise ModelError(
                f"The chat template of {self._name} does not show what the user asks.",
                "Every question would be an empty turn, so nothing was run.",
                "Use a template that shows it, or:  --set model.template=plain",
            )

    def _find_opening(self) -> str:
        """What the template by itself writes between a prompt and an answer, but for spaces: an empty thought, a channel."""
        asked = [Message("user", PROBE_QUERY)]
        try:
            prompt, whole = self._conversation(asked), self._conversation([*asked, Message("assistant", PROBE_ANSWER)])
        except ModelError:  # a template that takes no answers: prompts need none
            return ""
        opening = whole.removeprefix(prompt).partition(PROBE_ANSWER)[0] if whole.startswith(prompt) else ""
        return opening if opening.strip() and PROBE_ANSWER in whole else ""

    def _shows(self, *messages: Message) -> bool:
        """Whether the template takes these messages and writes each as it is."""
        try:
            text = self._conversation(messages)
        except ModelError as error:
            if isinstance(error.__cause__, _TooSlow):
                raise
            return False
        # Parts that a template does not know are written as data: {'type': 'text', …}.
        as_data = self._takes_parts and re.search(r"""['"]type['"]""", text)
        return not as_data and all(message.content in text for message in messages)

    def _behind_thinking(self, text: str, last: Message) -> str:
        """The prompt with the answer opened as the template opens it, or the thinking closed if it leaves that to the model."""
        if self._opening:
            return text + self._opening
        if self.has_channels:
            return text if text.endswith(ANSWER_CHANNEL) else text + ANSWER_CHANNEL
        # A short query may stand in what the template writes behind it as well.
        behind = text[text.rfind(last.content.strip()) + len(last.content.strip()) :]
        opened = self._end if text.endswith(self._end) else behind
        for opening, closing in THINKING_MARKS:
            if closing in opened:
                return text
            if opening in opened:
                return f"{text.rstrip()}\n\n{closing}\n\n"
            # Where there is a switch, it is off by now, and the template has done what there is to do.
            if closing in self._source and not (self._has_switch and not self.thinks):
                return f"{text}{opening}\n\n{closing}\n\n"
        return text

    def _conversation(self, messages: Sequence[Message]) -> str:
        import jinja2

        opens_answer = messages[-1].role != "assistant"
        given: list[dict[str, Any]] = [{"role": each.role, "content": self._content(each)} for each in messages]
        try:
            with _at_most(RENDER_SECONDS):
                text = self._tokenizer.apply_chat_template(
                    given,
                    tokenize=False,
                    add_generation_prompt=opens_answer,
                    strftime_now=self._date_in_words,
                    **self._variables,
                )
        except (jinja2.TemplateError, *PROGRAM_FAULTS) as error:
            raise self._unusable(error) from error
        assert isinstance(text, str)
        return text

    def _content(self, message: Message) -> Any:
        return [{"type": "text", "text": message.content}] if self._takes_parts else message.content

    def _date_in_words(self, form: str) -> str:
        return datetime.combine(self._today, datetime.min.time()).strftime(form)

    def _unusable(self, error: Exception) -> ModelError:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        return ModelError(
            f"The chat template of {self._name} fails: {words}",
            "It was to write the conversation that the model reads, so nothing was run.",
            "Use another template in the model's folder, or:  --set model.template=plain",
        )

    def _refuse_lost(self, messages: Sequence[Message], text: str) -> None:
        place = 0
        for message in messages:
            shown = message.content.strip()
            # Templates put a system sentence first, last, or before the last question (Mistral).
            found = text.find(shown, 0 if message.role == "system" else place)
            if found < 0:
                raise DataError(
                    f"The chat template of {self._name} drops or changes a part of a {message.role} turn: {shown[:80]!r}",
                    "The model would read something else, so nothing was run.",
                    "Change the words, use a template that keeps them, or:  --set model.template=plain",
                )
            if message.role != "system":
                place = found + len(shown)


class _TooSlow(RuntimeError):
    """A template that has not ended in time."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TooSlow in the block once it has taken so long. Only the main thread can be stopped, and only it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TooSlow(f"it has not ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _system_in_first_user_turn(messages: Sequence[Message]) -> list[Message]:
    """The same conversation for a template without a system role."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, first, *others = messages
    return [Message("user", f"{system.content.strip()}\n\n{first.content}"), *others]


def split_thinking(text: str, *, inside: bool = False) -> tuple[str, str]:
    """What the model thought and what it answered, in generated text that still holds its special tokens.

    inside: the prompt ended inside a thought. An answer that never began is empty.
    """
    if "<|channel|>" in text:
        thought, found, answer = text.rpartition(ANSWER_CHANNEL)
        return (thought, answer) if found else (text, "")
    for opening, closing in THINKING_MARKS:
        thought, found, answer = text.rpartition(closing)
        if found:
            return thought.replace(opening, ""), answer
        if opening in text:
            return text.partition(opening)[2], ""
    return (text, "") if inside else ("", text)
