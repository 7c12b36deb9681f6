"""A mutant and its module's tests in, killed or survived out.

The parent imports what is heavy and never anything of this project. Each mutant is tried in a fork of it, which imports the
project with the faulty module in place of the sound one and runs the tests in its own process: no file is changed, and no
heavy package is imported twice.
"""

import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from mutations import Mutant

ROOT = Path(__file__).parent.parent.parent
HEAVY = (
    "torch", "transformers", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "transformers.models.gemma2.modeling_gemma2", "tokenizers", "numpy", "polars", "pyarrow", "pyarrow.parquet", "pydantic",
    "hypothesis", "hypothesis.strategies", "scipy.stats", "click.testing", "rich.console", "safetensors.torch", "jinja2",
    "rouge_score.rouge_scorer", "filelock", "fsspec",
)  # fmt: skip
# What pytest does beside running tests, at half a second a run.
SLOW_PLUGINS = ("cacheprovider", "unraisableexception", "threadexception", "faulthandler", "junitxml")
# A mutant that takes so many times as long as the sound module goes round in circles.
PATIENCE = 10
LEAST_TIMEOUT_S = 20.0


def load_heavy() -> None:
    """Import what the tests need of other packages, and let none of them start threads, which no fork takes along."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    from hypothesis import HealthCheck, Phase, settings

    importlib.import_module("torch").set_num_threads(1)
    # A counterexample is enough: no time for a smaller one. The same examples for every mutant.
    settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        max_examples=30,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")
    # A fork that collects garbage copies all of the parent's memory.
    gc.disable()
    gc.freeze()


class _Mutated(SourceFileLoader):
    """Loads a module's code from a changed tree instead of its file."""

    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._mutant.tree, self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.module.removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        file = str(ROOT / self._mutant.module)
        return spec_from_file_location(fullname, file, loader=_Mutated(fullname, file, self._mutant))


class _Models:
    """Hands every session the one tiny model that was made before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Path | None:
        if fixturedef.argname != "tiny_model":
            return None
        fixturedef.cached_result = (self._folder, fixturedef.cache_key(request), None)
        return self._folder


class Workplace:
    """A temporary folder with the tiny model in it, and the forks at work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model = folder / "tiny"
        process = _fork(lambda: importlib.import_module("conftest").make_tiny_model(self._model) and 0)
        if _wait(process, 300) != 0:
            raise SystemExit("The tiny model cannot be made; run the tests to see why.")

    def passes(self, tests: Sequence[str], mutant: Mutant | None = None) -> int:
        """Run tests in this process, which must be a fork. Returns pytest's exit code: 0 if all passed."""
        if mutant is not None:
            sys.meta_path.insert(0, _Finder(mutant))
        base = tempfile.mkdtemp(dir=self.folder)
        try:
            arguments = ["-x", "-q", "-m", "not slow", f"--basetemp={base}", f"--rootdir={ROOT}"]
            without = [part for plugin in SLOW_PLUGINS for part in ("-p", f"no:{plugin}")]
            return int(pytest.main([*arguments, *without, *tests], plugins=[_Models(self._model)]))
        finally:
            shutil.rmtree(base, ignore_errors=True)

    def seconds(self, tests: Sequence[str]) -> float:
        """How long the tests take on the sound module. Exits if they fail, or if nothing was tested."""
        begun = time.monotonic()
        if (code := _wait(_fork(lambda: self.passes(tests)), 600)) != 0:
            raise SystemExit(f"The tests {' '.join(tests)} end with code {code} without any mutant.")
        return time.monotonic() - begun

    def survivors(
        self, mutants: Iterable[tuple[Mutant, Sequence[str], float]], *, workers: int
    ) -> Iterator[tuple[Mutant, bool]]:
        """Each mutant, and whether its tests pass nonetheless, as they end. The third: after how many seconds it is killed."""
        waiting, running = iter(mutants), dict[int, tuple[Mutant, float]]()
        while True:
            while len(running) < workers and (following := next(waiting, None)):
                mutant, tests, timeout_s = following
                process = _fork(lambda mutant=mutant, tests=tests: self.passes(tests, mutant))
                running[process] = (mutant, time.monotonic() + timeout_s)
            if not running:
                return
            for process, (mutant, deadline) in list(running.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if not ended and time.monotonic() < deadline:
                    continue
                if not ended:
                    _end(process)
                del running[process]
                yield mutant, bool(ended) and os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.01)


def _fork(work: Callable[[], int]) -> int:
    """The process id of a silent fork that does the work and ends with its code."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 1
    try:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        code = work()
    finally:
        os._exit(code)


def _wait(process: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    _end(process)
    return 1


def _end(process: int) -> None:
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
