"""A file of a few megabytes of nothing is refused soon and in little memory, by every reader of JSON that people send."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

MOST_MB, MOST_SECONDS = 300, 30
BRACKETS = ",".join(["[]"] * 1_000_000)
KEYS = ",".join(f'"k{number}":1' for number in range(300_000))
FLOODS = {
    "turns of a prefix": ("stages.language_model.prefix", "load_prefix", f'{{"turns":[{BRACKETS}]}}'),
    "keys of a prefix": ("stages.language_model.prefix", "load_prefix", f"{{{KEYS}}}"),
    "aliases of a question": (
        "stages.evaluation.questions", "load_questions", f'{{"question":"What?","answer":"That","aliases":[{BRACKETS}]}}'
    ),
    "keys of a question": (
        "stages.evaluation.questions", "load_questions", f'{{"question":"What?","answer":"That",{KEYS}}}'
    ),
    "scores of an audit": ("stages.evaluation.report.reading", "load_audit", f'{{"scores":[{BRACKETS}]}}'),
    "settings of an audit": ("stages.evaluation.report.reading", "load_audit", f'{{"run":{{"settings":{{{KEYS}}}}}}}'),
}  # fmt: skip
READ = """
import importlib, resource, sys
from pathlib import Path
from stages.errors import DataError

module, name, path = sys.argv[1:]
read = getattr(importlib.import_module(module), name)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path(path))
except DataError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_faults_is_one_refusal(tmp_path: Path, name: str) -> None:
    module, reader, content = FLOODS[name]
    (tmp_path / "flood.json").write_text(content)

    ended = subprocess.run(
        [sys.executable, "-c", READ, module, reader, tmp_path / "flood.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=MOST_SECONDS * 4,  # imports included, on a machine that does other things as well
        check=True,
    )

    assert int(ended.stdout) < MOST_MB
