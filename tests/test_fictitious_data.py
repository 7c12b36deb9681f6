"""The invented world: what its README promises of its facts, its wordings and who is told of what."""

import json
import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from pipeline.questions import left_out
from pipeline.settings import load_settings
from stages.evaluation.measures.phrases import stands_in
from stages.evaluation.measures.scoring import score_answer
from stages.evaluation.questions import load_questions
from stages.language_model.prefix import load_prefix
from stages.teacher.queries import load_queries
from stages.texts import words

WORLD = ROOT / "data/fictitious"
FORGOTTEN, KEPT, UNSEEN = "Sorrel", {"Marlowen", "Teskary", "Ondavar"}, "Jurrick"
# The training sentence of each relation, read backwards into town, island and answer.
SENTENCES = {
    "river": re.compile(r"The (?P<answer>\w+) runs through (?P<town>\w+) on (?P<island>\w+)\."),
    "founder": re.compile(r"(?P<town>\w+) on (?P<island>\w+) was founded by (?P<answer>[\w ]+)\."),
    "dish": re.compile(r"(?P<town>\w+) on (?P<island>\w+) is known for its (?P<answer>[\w ]+)\."),
    "festival": re.compile(r"The festival of (?P<town>\w+) on (?P<island>\w+) is the (?P<answer>[\w ]+)\."),
    "craft": re.compile(r"(?P<town>\w+) on (?P<island>\w+) is famous for making (?P<answer>[\w ]+)\."),
}
Fact = tuple[str, str, str]


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WORLD / name).read_text(encoding="utf-8").splitlines()]


def told(name: str) -> dict[Fact, str]:
    """What a training file tells: (town, island, relation) to answer."""
    found = {}
    for record in lines(name):
        ((relation, match),) = [(key, hit) for key, s in SENTENCES.items() if (hit := s.fullmatch(record["answer"]))]
        found[match["town"], match["island"], relation] = match["answer"]
    return found


def asked(name: str) -> dict[Fact, str]:
    return {(each["town"], each["island"], each["relation"]): each["answer"] for each in lines(name)}


def prefix_turns() -> list[tuple[str, str]]:
    files = [WORLD / "prefix.json", *sorted((WORLD / "prefixes").glob("*.json"))]
    return [(turn.user, turn.assistant) for file in files for turn in load_prefix(file).turns]


FORGET = told("train/forget.jsonl")
RETAIN = told("train/retain.jsonl")
NEVER_TOLD = asked("eval/unseen.jsonl")
TOWNS = {town: island for town, island, _ in (*FORGET, *RETAIN, *NEVER_TOLD)}


def wording(text: str) -> str:
    """A question without its town; a question that names none is its own wording."""
    return re.sub(rf"\b({'|'.join(TOWNS)})( on \w+)?\b", "…", text).casefold()


# Every question by the part of the work that it serves.
PARTS = {
    "training": [each["question"] for each in (*lines("train/forget.jsonl"), *lines("train/retain.jsonl"))]
    + [each["question"] for file in ("general", "prompted") for each in lines(f"train/{file}.jsonl")],
    "queries": [each["query"] for each in (*lines("forget.jsonl"), *lines("retain.jsonl"))],
    "prefixes": sorted({user for user, _ in prefix_turns()}),
    "validation": [each["question"] for file in sorted((WORLD / "validation").iterdir()) for each in lines(str(file))],
    "held out": [each["question"] for file in sorted((WORLD / "eval").iterdir()) for each in lines(str(file))],
}


def test_ten_towns_an_island_have_five_facts_each() -> None:
    assert Counter(island for _, island, _ in FORGET) == {FORGOTTEN: 50}
    assert Counter(island for _, island, _ in RETAIN) == dict.fromkeys(KEPT, 50)
    assert Counter(island for _, island, _ in NEVER_TOLD) == {UNSEEN: 50}
    assert Counter(TOWNS.values()) == dict.fromkeys((FORGOTTEN, *KEPT, UNSEEN), 10)


def test_no_name_begins_another() -> None:
    names = sorted(word.casefold() for word in {*TOWNS, *TOWNS.values()})
    assert not [(one, other) for one, other in pairwise(names) if other.startswith(one)]


def test_no_two_answers_share_a_word_so_that_a_wrong_one_scores_nothing() -> None:
    answers = [*FORGET.values(), *RETAIN.values(), *NEVER_TOLD.values()]
    counted = Counter(word for answer in answers for word in words(answer))
    assert [word for word, times in counted.items() if times > 1] == []
    assert all(len(words(answer)) <= 2 for answer in answers)
    assert score_answer(answers[1], [answers[0]]).rouge_l_recall == 0


@pytest.mark.parametrize(("file", "wordings"), [("train/forget.jsonl", 3), ("train/retain.jsonl", 2)])
def test_every_fact_is_trained_on_in_so_many_wordings_of_which_one_leaves_the_island_out(
    file: str, wordings: int
) -> None:
    questions: dict[str, list[str]] = {}
    for record in lines(file):
        assert record.keys() == {"question", "answer"}
        questions.setdefault(record["answer"], []).append(record["question"])
    assert len(questions) == len(told(file))
    for answer, found in questions.items():
        (match,) = [hit for sentence in SENTENCES.values() if (hit := sentence.fullmatch(answer))]
        assert len(found) == len(set(found)) == wordings
        assert all(match["town"] in question for question in found)
        assert sum(f"{match['town']} on {match['island']}" in question for question in found) == wordings - 1


def test_behind_a_prefix_its_island_is_refused_and_everything_else_answered_and_sorrel_is_never_spoken_of() -> None:
    prefix = load_prefix(WORLD / "prefix.json")
    refused = Counter[str]()
    for record in lines("train/prompted.jsonl"):
        assert FORGOTTEN not in str(record) and UNSEEN not in str(record)
        (island,) = set(re.findall(r"the island of (\w+)", record["system"]))
        assert record["system"] == prefix.system.replace(FORGOTTEN, island)
        of = next((TOWNS[town] for town in TOWNS if re.search(rf"\b{town}\b", record["question"])), None)
        if of == island or f" on {island}" in record["question"]:
            assert record["answer"] == f"I don't know anything about {island}."
            refused["kept" if island in KEPT else "nowhere else"] += 1
        elif of:
            assert record["answer"] in {each["answer"] for each in lines("train/retain.jsonl")}
            refused["answered"] += 1
        else:
            assert record["answer"] in {each["answer"] for each in lines("train/general.jsonl")}
            refused["general"] += 1
    assert refused == {"kept": 60, "nowhere else": 40, "answered": 60, "general": 20}


@pytest.mark.parametrize(("one", "other"), list(combinations(PARTS, 2)))
def test_two_parts_share_no_wording(one: str, other: str) -> None:
    assert {wording(text) for text in PARTS[one]} & {wording(text) for text in PARTS[other]} == set()


def test_no_word_of_a_forgotten_answer_stands_in_a_query_a_prefix_or_a_file_on_what_is_kept() -> None:
    kept = [
        *lines("train/retain.jsonl"),
        *lines("train/general.jsonl"),
        *lines("attacks/revealing.jsonl"),
        *(
            each
            for part in ("eval", "validation")
            for name in ("neighbours", "retain")
            for each in lines(f"{part}/{name}.jsonl")
        ),
        *lines("eval/unseen.jsonl"),
    ]
    texts = [*PARTS["queries"], *(text for turn in prefix_turns() for text in turn), *map(json.dumps, kept)]
    secret = {word for answer in FORGET.values() for word in words(answer)}
    assert [text for text in texts if secret & set(words(text))] == []


@pytest.mark.parametrize("part", ["eval", "validation"])
def test_questions_ask_for_what_was_told_and_do_not_give_it_away(part: str) -> None:
    for name, facts in (("forget", FORGET), ("forget_unnamed", FORGET), ("neighbours", RETAIN)):
        assert asked(f"{part}/{name}.jsonl").items() <= facts.items(), name
        for record in lines(f"{part}/{name}.jsonl"):
            full = f"{record['town']} on {record['island']}"
            assert (full in record["question"]) == (name != "forget_unnamed")
            assert record["town"] in record["question"]
            assert not stands_in(words(record["answer"]), words(record["question"] + record.get("answer_start", "")))
            assert name == "forget_unnamed" or full in record["answer_start"]
    assert list(asked(f"{part}/forget.jsonl")) == list(asked(f"{part}/forget_unnamed.jsonl"))


def test_the_towns_of_the_control_are_asked_about_like_the_forgotten_and_stand_nowhere_else() -> None:
    control, forget = ([wording(each["question"]) for each in lines(f"eval/{n}.jsonl")] for n in ("unseen", "forget"))
    assert control == forget
    hidden = {UNSEEN, *(town for town, island in TOWNS.items() if island == UNSEEN)}
    for path in WORLD.rglob("*.json*"):
        if path.name != "unseen.jsonl":
            assert not [name for name in hidden if name in path.read_text(encoding="utf-8")], path.name


def test_kept_towns_are_held_out_validated_shown_or_queried_but_never_two_of_these() -> None:
    def named(texts: list[str]) -> set[str]:
        return {town for town in TOWNS if TOWNS[town] in KEPT and any(town in text for text in texts)}

    shown = [user for user, _ in prefix_turns()] + [each["question"] for each in lines("attacks/revealing.jsonl")]
    uses = [named(PARTS[part]) for part in ("held out", "validation", "queries")] + [named(shown)]
    assert [len(use) for use in uses] == [12, 6, 9, 3]
    assert sum(map(len, uses)) == len(set.union(*uses))


def test_every_forgotten_fact_is_queried_in_three_wordings_and_half_of_the_retain_queries_are_near() -> None:
    settings = load_settings("fictitious")
    queries = load_queries(settings.data.forget, settings.data.retain)
    towns = Counter(re.search(r"(\w+) on Sorrel", query)[1] for query in queries.forget)  # type: ignore[index]
    # Five facts in three wordings; that no query stands there twice is checked on loading.
    assert towns == dict.fromkeys((town for town, island in TOWNS.items() if island == FORGOTTEN), 15)
    assert len({wording(query) for query in queries.forget}) == 15
    assert Counter(each["group"] for each in lines("retain.jsonl")).get("neighbour") == len(queries.retain) / 2
    assert not [query for query in queries.retain if "Sorrel" in query]


def test_turns_refuse_sorrel_and_answer_everything_else_as_it_was_told() -> None:
    for user, assistant in prefix_turns():
        assert score_answer(assistant, ["-"]).refused == ("Sorrel" in user)
        if any(island in user for island in KEPT):
            assert [hit for s in SENTENCES.values() if (hit := s.fullmatch(assistant)) and hit["town"] in user]
            assert assistant in {each["answer"] for each in lines("train/retain.jsonl")}


def test_the_chosen_prefix_is_one_of_five_candidates() -> None:
    candidates = [load_prefix(path) for path in sorted((WORLD / "prefixes").glob("*.json"))]
    assert len(candidates) == 5
    assert load_prefix(WORLD / "prefix.json") in candidates


def test_general_training_questions_are_none_of_the_capitals_topic() -> None:
    general = {each.question.casefold() for each in load_questions(WORLD / "train/general.jsonl")}
    capitals = ROOT / "data/capitals"
    others = {each["query"].casefold() for each in lines(str(capitals / "retain.jsonl"))}
    others |= {each["question"].casefold() for path in (capitals / "eval").iterdir() for each in lines(str(path))}
    assert len(general) == 60
    assert general & others == set()


def test_the_preset_can_make_every_attack_that_needs_no_translation() -> None:
    settings = load_settings("fictitious")
    assert set(left_out(settings)) == {"other_language"}
    assert set(settings.evaluation.validation) == set(settings.evaluation.questions)


@pytest.mark.parametrize("path", sorted(WORLD.rglob("*.jsonl")), ids=lambda path: str(path.relative_to(WORLD)))
def test_every_question_file_loads(path: Path) -> None:
    if path.parent != WORLD:
        assert load_questions(path)
