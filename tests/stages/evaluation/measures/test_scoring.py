"""Figures of one answer, against cases worked out by hand."""

import pytest

from stages.evaluation.measures.scoring import score_answer


@pytest.mark.parametrize(
    ("answer", "references", "recall", "f1"),
    [
        ("Paris", ["Paris"], 1, 1),
        ("The capital is Paris.", ["Paris"], 1, 0.4),  # precision 1/4
        ("Lyon", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("New Delhi", ["Delhi New"], 0.5, 0.5),  # the longest common subsequence keeps the order
        ("It is Bogota.", ["Bogotá"], 1, 0.5),
        ("It is Kyiv.", ["Kiev", "Kyiv"], 1, 0.5),  # the alias that fits best
        ("Это Москва", ["Москва"], 1, 2 / 3),  # ROUGE's own tokenizer drops every letter of it
    ],
)
def test_rouge_l_of_an_answer(answer: str, references: list[str], recall: float, f1: float) -> None:
    scores = score_answer(answer, references)

    assert scores.rouge_l_recall == pytest.approx(recall)
    assert scores.rouge_l_f1 == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "references", "exact", "in_full"),
    [
        ("Paris.", ["Paris"], True, True),
        ("The capital is Paris.", ["Paris"], False, True),
        ("KYIV", ["Kiev", "Kyiv"], True, True),  # by an alias
        ("New Delhi", ["Delhi"], False, True),
        ("Delhi, the new capital", ["New Delhi"], False, False),
        ("Port of Vila", ["Port Vila"], False, False),  # recall is 1, yet something stands between
        ("Parisians", ["Paris"], False, False),
        ("", ["Paris"], False, False),
        ("首都は東京です。", ["東京"], False, True),  # no space stands between its words
        ("เมืองหลวงคือกรุงเทพ", ["กรุงเทพ"], False, True),
        ("수도는 서울입니다", ["서울"], False, True),
        ("राजधानी दिल्ली है", ["दिल्ली"], False, True),
        ("दलील", ["दिल्ली"], False, False),  # the same consonants with other vowels
        ("カーナ", ["ガーナ"], False, False),
        ("anything", ["…"], False, False),  # a reference without a word is never given
    ],
)
def test_an_answer_is_exact_or_stands_in_full(answer: str, references: list[str], exact: bool, in_full: bool) -> None:
    scores = score_answer(answer, references)

    assert (scores.exact, scores.in_full) == (exact, in_full)
