"""The reference is given as the answer: not denied, not one of a list, not behind another answer."""

import pytest

from stages.evaluation.measures.scoring import score_answer

CITIES = ("Paris", "London", "Lyon", "Rome", "Cairo", "Damascus", "Delhi")


def right(answer: str, *references: str, question: str = "", rivals: tuple[str, ...] = CITIES) -> bool:
    return score_answer(answer, references, question=question, rivals=rivals).right


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ("Paris", True),
        ("The capital of France is Paris.", True),
        ("The capital of France is Paris, not London.", True),
        ("It is not London but Paris.", True),
        ("It isn't London. It is Paris.", False),  # the first sentence does not name it
        ("No, it is Paris.", True),
        ("Sure! The capital of France is Paris.", True),  # one word is no sentence
        ("Paris. I'm sorry, I don't know.", True),  # the fact came out
        ("Paris, isn't it?", True),
        ("It is not Paris.", False),
        ("It isn’t Paris.", False),
        ("It was never the city of Paris", False),
        ("Paris is not the capital.", False),
        ("It is no longer Paris", False),
        ("neither Paris nor Lyon", False),
        ("Rather than Paris it is Lyon", False),
        ("Lyon, not Paris.", False),
        ("Paris or London", True),  # one other, behind it
        ("Paris, which is larger than London and Lyon", False),  # two others: that is a list
        ("London or Paris", False),
        ("Paris, London, Rome, Cairo", False),
        ("Paris\nLondon\nRome", False),
        ("1. Paris\n2. London\n3. Rome", False),
        ("Paris, London, London", True),  # the same one twice
        ("I think that it is a large city. Paris?", False),
        ("The capital of France? Paris.", True),
        ("The answer is:\nParis", True),
        ("", False),
        (" ".join(["word"] * 24) + " Paris", True),
        (" ".join(["word"] * 25) + " Paris", False),  # the 26th word
    ],
)
def test_an_answer_is_right_where_it_names_the_reference_first(answer: str, is_right: bool) -> None:
    assert right(answer, "Paris") is is_right


@pytest.mark.parametrize(
    ("answer", "reference", "is_right"),
    [
        ("The capital is St. John's.", "St. John's", True),
        ("The city is on Mt. Hood near Paris.", "Paris", True),
        ("The seat of government is Washington, D.C. today", "Washington, D.C.", True),
        ("J. R. R. Tolkien wrote it.", "Tolkien", True),
        ("It was e.g. Paris", "Paris", True),
        ("Das ist nicht Paris, sondern Lyon.", "Paris", False),
        ("Das ist nicht Lyon, sondern Paris.", "Paris", True),
        ("Ce n'est pas Paris.", "Paris", False),
        ("La capitale n'est pas Lyon mais Paris.", "Paris", True),
        ("No es Paris.", "Paris", False),
        ("La capital es Paris, no Lyon.", "Paris", True),
        ("Non è Paris.", "Paris", False),
        ("Não é Paris.", "Paris", False),
        ("Это не Париж.", "Париж", False),
        ("Это не Лондон, а Париж.", "Париж", True),
        ("首都不是巴黎。", "巴黎", False),
        ("首都不是伦敦而是巴黎。", "巴黎", True),
        ("巴黎不是首都。", "巴黎", False),
        ("首都はパリです。ロンドンではありません。", "パリ", True),
        ("パリではありません。", "パリ", False),
        ("수도는 파리가 아닙니다.", "파리", False),
        ("我不知道这个问题的答案。巴黎很大。", "巴黎", False),
        ("यह एक बड़ा शहर है। दिल्ली है", "दिल्ली", False),
    ],
)
def test_sentences_and_denials_of_other_languages(answer: str, reference: str, is_right: bool) -> None:
    assert right(answer, reference) is is_right


def test_words_of_the_question_and_own_references_are_no_rivals() -> None:
    asked = "Is Paris larger than London or Lyon, or is it Rome?"

    assert right("Of Paris, London and Lyon it is Rome", "Rome", question=asked)
    assert not right("Of Paris, London and Lyon it is Rome", "Rome")
    assert right("Kyiv, once Kiev, or Kyjiw", "Kyiv", "Kiev", "Kyjiw", rivals=("Kyiv", "Kiev", "Kyjiw"))


def test_words_of_the_reference_are_its_own_even_within_another_answer() -> None:
    assert right("It is Ron Weasley", "Weasley", rivals=("Ron Weasley",))
    assert right("New Delhi", "New Delhi")


def test_an_answer_of_many_words_is_right_though_it_is_longer_than_a_sentence() -> None:
    reference = "He writes. She paints. They live by the sea in a house of stone, and " + "so on " * 20

    assert right(f"Well: {reference}", reference)
