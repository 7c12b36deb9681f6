"""Which faults are tried, and that the tests notice those that must be noticed."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from mutations import mutants


def changes(source: str) -> list[str]:
    return [each.change for each in mutants("module.py", source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["(deleted)", "a <= b"]),
        ("x = a + b[1:]", ["a + b[1:] → a - b[1:]", "1 → 2", "1 → 0"]),
        ("x = a[:n]", [":n → :n + 1", ":n → :n - 1"]),
        ("x = not a and b", ["not a and b → not a or b", "not a → a"]),
        ("x = f(a, b)", ["f(a, b) → f(b, a)"]),
        ("x = max(a, b)", ["max(a, b) → min(a, b)"]),
        ("x = [c for c in d if c]", ["[c for c in d if c] → [c for c in d]"]),
        ("x = 0.5", ["0.5 → 1.0", "0.5 → 0.25"]),
        ("x = 'word'", ["'word' → 'wordX'"]),
        ("for a in b:\n    continue", ["continue → break"]),
        ("if a:\n    x = b", ["if a: → if True:", "if a: → if False:"]),
        ("def f(a: int = 1) -> int:\n    return a", ["1 → 2", "1 → 0", "return a → return None"]),
        ("def f():\n    '''Words.'''\n    assert a < 1", []),
        ("raise DataError('a' + b, 1)", ["raise DataError('a' + b, 1) → (deleted)"]),
        ("x = zip(a, b, strict=True)", ["zip(a, b, strict=True) → zip(b, a, strict=True)"]),
    ],
)
def test_a_small_source_has_these_mutants(source: str, expected: list[str]) -> None:
    found = changes(source)

    assert [each.removeprefix("a < b → ") for each in found] == expected


def test_a_mutant_differs_from_the_source_in_one_place_only() -> None:
    one, other = mutants("module.py", "x = 1\ny = 1  # as above\n")[1:3]

    assert (one.line, one.text, one.change) == (1, "x = 1", "1 → 0")
    assert (other.line, other.text, other.change) == (2, "y = 1  # as above", "1 → 2")
    namespace: dict[str, object] = {}
    exec(compile(other.tree, "module.py", "exec"), namespace)
    assert (namespace["x"], namespace["y"]) == (1, 2)


@pytest.mark.slow
def test_a_wrong_sign_bound_or_index_of_the_core_is_noticed() -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "tests", "tests/mutation", "tests/stages/logit_cache"))
    command = [sys.executable, str(ROOT / "tests/mutation/run.py"), "--named"]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
