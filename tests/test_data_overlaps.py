"""What a topic trains on, shows in its prefix, tunes on and holds out, compared with one another, for every preset.

A file's role comes from the settings, not from its name. Queries on what is to be forgotten may ask for facts that the forget
files ask for again: whether those are forgotten is the question. Files on what is to be kept must be unseen, or retention
would be measured on what was trained on.

Two questions are near duplicates if they share most of what they say, or much of it. What a word says is its inverse document
frequency over the topic's questions, in nats: `What is the chemical symbol for` says little in a file of symbols, `balloon` a lot.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.settings import Settings, load_settings, preset_names
from stages.evaluation.choices import load_choices
from stages.evaluation.measures.phrases import stands_in
from stages.evaluation.questions import Question, load_questions, load_requests
from stages.language_model.prefix import load_prefix
from stages.records import FileKind, read_records
from stages.texts import same_text, words

# Both found by reading all pairs of the committed files: above stand repeats and other wordings of one fact, below stand
# questions of one pattern on different things ("What day comes after Friday?", "What day comes after Monday?").
MOST_SHARED_SHARE = 0.55
MOST_SHARED_NATS = 15.0
# Two texts that share as much are on the same thing: a word that one question in 55 has. A colour's name is not enough.
SAME_THING_NATS = 4.0
# Two questions with one answer that share as much ask for one fact; fewer is what "the official language of" says.
SAME_FACT_NATS = 6.0
# Words of this many letters are compared by them: "builds dams" and "building dams" are one thing.
STEM_LETTERS = 5
FUNCTION_WORDS = frozenset(
    words(
        "a an the of in on at to for from by with and or is are was were be do does did what which who whom how when where why "
        "that it its this i you we my your s me tell please name called can there have has had many"
    )
)


@dataclass(frozen=True)
class Topic:
    """The texts of one preset by role.

    prefix: each turn, question and answer. held_out: scored at the end; validation: tuned on. forget, kept: what the questions
    are on. taught: what the base model is fine-tuned on before.
    """

    forget_queries: list[str]
    retain_queries: list[str]
    prefix: list[str]
    prefix_questions: list[str]
    held_out_forget: list[Question]
    held_out_kept: list[Question]
    validation_forget: list[Question]
    validation_kept: list[Question]
    taught: list[str]

    @property
    def questions(self) -> list[Question]:
        """All that have a reference answer."""
        return [*self.held_out_forget, *self.held_out_kept, *self.validation_forget, *self.validation_kept]

    @property
    def unseen_kept(self) -> list[str]:
        """Everything that is asked to see whether it was kept."""
        return [*_asked(self.held_out_kept), *_asked(self.validation_kept)]

    def held_out(self) -> list[str]:
        return [*_asked(self.held_out_forget), *_asked(self.held_out_kept)]

    def validation(self) -> list[str]:
        return [*_asked(self.validation_forget), *_asked(self.validation_kept)]


def _asked(questions: Iterable[Question]) -> list[str]:
    return [each.question for each in questions]


def _queries(paths: Iterable[Path]) -> list[str]:
    """The queries of those files that are committed: of WMDP the forget queries are not."""
    kind = FileKind("query file", "JSONL")
    return [str(record["query"]) for path in paths if path.is_file() for _, record in read_records(path, kind)]


def _by_role(files: dict[str, Path], forget: Iterable[str]) -> tuple[list[Question], list[Question]]:
    """The questions on what is to be forgotten, and on what is to be kept."""
    asked = {name: load_questions(path) for name, path in files.items()}
    return (
        [each for name, questions in asked.items() if name in forget for each in questions],
        [each for name, questions in asked.items() if name not in forget for each in questions],
    )


def _choices(paths: Iterable[Path]) -> list[Question]:
    """Multiple-choice questions, each with its right option as the reference answer, be it a letter."""
    asked = [each for path in paths for each in load_choices(path)]
    return [Question.model_construct(question=each.question, answer=each.choices[each.answer]) for each in asked]


@cache
def topic(preset: str) -> Topic:
    settings: Settings = load_settings(preset)
    asked, prefix = settings.evaluation, load_prefix(settings.data.prefix)
    held_out_forget, held_out_kept = _by_role(asked.questions, asked.forget_files)
    validation_forget, validation_kept = _by_role(asked.validation, asked.forget_files)
    taught = [*settings.finetune.forget, *settings.finetune.retain]
    return Topic(
        forget_queries=_queries(settings.data.forget),
        retain_queries=_queries(settings.data.retain),
        prefix=[f"{turn.user} {turn.assistant}" for turn in prefix.turns],
        prefix_questions=[turn.user for turn in prefix.turns],
        held_out_forget=held_out_forget,
        held_out_kept=[*held_out_kept, *_choices(asked.choices.values())],
        validation_forget=validation_forget,
        validation_kept=validation_kept,
        taught=[
            json.loads(line)["question"] for path in taught for line in path.read_text(encoding="utf-8").splitlines()
        ],
    )


@cache
def said_words(text: str) -> list[str]:
    """`words`, once per text: every question is compared with every other."""
    return words(text)


@cache
def content(text: str) -> frozenset[str]:
    """What a question says: its words without function words, each by its first letters and without a plural's s."""
    return frozenset(
        word if len(word) < 4 else word[:STEM_LETTERS].removesuffix("s")
        for word in said_words(text)
        if word not in FUNCTION_WORDS
    )


class Likeness:
    """How much two questions of a topic say that is the same."""

    def __init__(self, texts: Iterable[str]) -> None:
        said = [content(text) for text in texts]
        counted = Counter(word for each in said for word in each)
        self._nats = {word: math.log(len(said) / count) for word, count in counted.items()}

    def nats(self, said: frozenset[str]) -> float:
        return sum(self._nats[word] for word in said)

    def are_near(self, one: str, other: str) -> bool:
        """Whether they are near duplicates, by the thresholds above."""
        said, again = content(one), content(other)
        shared = self.nats(said & again)
        return shared >= MOST_SHARED_NATS or (shared > 0 and shared >= MOST_SHARED_SHARE * self.nats(said | again))

    def near(self, ones: Iterable[str], others: list[str]) -> Iterator[tuple[str, str]]:
        for one in ones:
            yield from ((one, other) for other in others if self.are_near(one, other))


def likeness(found: Topic) -> Likeness:
    return Likeness(
        [
            *found.forget_queries,
            *found.retain_queries,
            *found.prefix_questions,
            *found.held_out(),
            *found.validation(),
        ]
    )


def references(question: Question) -> list[list[str]]:
    """The words of its reference answers, but for those of function words alone, such as A for ampere."""
    return [said_words(each) for each in question.references if content(each)]


def repeated(ones: Iterable[str], others: Iterable[str]) -> set[str]:
    """What stands in both, by what a reader takes for one text."""
    return {same_text(each) for each in ones} & {same_text(each) for each in others}


def _presets() -> list[str]:
    """One preset for each set of files: those for other machines name the files of another."""
    by_files: dict[str, str] = {}
    for preset in sorted(preset_names(), key=lambda name: not (ROOT / "data" / name).is_dir()):
        settings = load_settings(preset)
        files = (
            settings.data,
            settings.evaluation.questions,
            settings.evaluation.validation,
            settings.evaluation.choices,
        )
        by_files.setdefault(str(files), preset)
    return list(by_files.values())


every_preset = pytest.mark.parametrize("preset", _presets())


def test_a_word_says_more_the_fewer_questions_it_stands_in() -> None:
    # "colour" stands in two of eight questions, ln(8/2) = 1.39 nats; "lime" and "coal" in one each, ln(8/1) = 2.08.
    like = Likeness(["What colour is a lime?", "What colour is coal?", *(f"topic{each}" for each in "abcdef")])

    assert like.nats(content("colour")) == pytest.approx(math.log(4))
    assert like.nats(content("lime")) == pytest.approx(math.log(8))
    # They share 1.39 of 1.39 + 2.08 + 2.08 nats, a quarter.
    assert not like.are_near("What colour is a lime?", "What colour is coal?")
    # Of 1.39 + 2.08 nats 3.47 are shared once the pattern is asked of the same thing in other words: all of them.
    assert like.are_near("What colour is a lime?", "What is the colour of limes?")


def test_two_wordings_of_one_fact_are_near_and_one_pattern_on_two_things_is_not() -> None:
    wordings = [
        ("Which animal builds dams in rivers?", "Which animal is known for building dams?"),
        ("How many degrees are there in a right angle?", "How many degrees does a right angle have?"),
        ("Which gas makes a party balloon rise?", "Which gas makes balloons rise?"),
    ]
    patterns = [
        ("What day comes after Friday?", "What day comes after Monday?"),
        ("What is the chemical symbol for helium?", "What is the chemical symbol for gold?"),
        ("How many sides does an octagon have?", "How many sides does a hexagon have?"),
    ]
    found = topic("capitals")
    like = Likeness([*(text for pair in wordings for text in pair), *found.retain_queries, *found.held_out()])

    assert [like.are_near(*pair) for pair in wordings] == [True] * 3
    assert [like.are_near(*pair) for pair in patterns] == [False] * 3


@every_preset
def test_no_question_is_asked_as_it_was_trained_on_or_shown(preset: str) -> None:
    found = topic(preset)
    trained = [*found.forget_queries, *found.retain_queries, *found.prefix_questions, *found.taught]

    assert repeated(trained, [*found.held_out(), *found.validation()]) == set()


@every_preset
def test_what_is_to_be_kept_is_asked_about_otherwise_than_in_training_and_prefix(preset: str) -> None:
    found = topic(preset)
    trained = [*found.forget_queries, *found.retain_queries, *found.prefix_questions]

    assert list(likeness(found).near(trained, found.unseen_kept)) == []


@every_preset
def test_validation_and_held_out_files_share_no_question(preset: str) -> None:
    found = topic(preset)

    assert repeated(found.validation(), found.held_out()) == set()
    assert list(likeness(found).near(_asked(found.validation_kept), _asked(found.held_out_kept))) == []


@every_preset
def test_validation_and_held_out_files_ask_for_no_fact_twice_of_what_is_to_be_kept(preset: str) -> None:
    found = topic(preset)
    like = likeness(found)
    twice = [
        (one.question, other.question)
        for one in found.validation_kept
        for other in found.held_out_kept
        if like.nats(content(one.question) & content(other.question)) >= SAME_FACT_NATS
        and {tuple(each) for each in references(one)} & {tuple(each) for each in references(other)}
    ]

    assert twice == []


@every_preset
def test_the_prefix_gives_no_answer_away(preset: str) -> None:
    """An answer that several questions of the topic have ("Africa", "two") says nothing of any one of them."""
    found = topic(preset)
    common = Counter(same_text(answer) for answer, _ in {(each.answer, each.question) for each in found.questions})
    shown = [said_words(turn) for turn in found.prefix]
    given = [
        each.question
        for each in found.questions
        if common[same_text(each.answer)] == 1
        and any(stands_in(reference, turn) for reference in references(each) for turn in shown)
    ]

    assert given == []


@every_preset
def test_no_query_gives_away_the_answer_to_a_question_on_the_same_thing(preset: str) -> None:
    """Such as "What is Earthsea by Ursula K. Le Guin about?" where "Who wrote A Wizard of Earthsea?" is asked."""
    found = topic(preset)
    queries, like = [*found.forget_queries, *found.retain_queries], likeness(found)
    given = [
        (query, each.question)
        for each in [*found.held_out_kept, *found.validation_kept]
        for query in queries
        if like.nats(content(query) & content(each.question)) >= SAME_THING_NATS
        and any(stands_in(reference, said_words(query)) for reference in references(each))
    ]

    assert given == []


@every_preset
def test_the_everyday_requests_are_none_that_a_topic_trains_on_or_tunes_on(preset: str) -> None:
    found = topic(preset)
    requests = [each.request for each in load_requests(ROOT / "data/instructions/requests.jsonl")]
    others = [*found.forget_queries, *found.retain_queries, *found.prefix_questions, *found.validation()]
    like = Likeness([*others, *found.held_out(), *found.taught, *requests])

    assert repeated(requests, [*others, *found.taught]) == set()
    assert list(like.near(requests, [*others, *found.taught])) == []
