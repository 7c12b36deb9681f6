"""`duet sweep`: many runs on one frozen cache, each distilled and evaluated, and one leaderboard.

The teacher is never loaded: another K or fewer positions are sliced from the cache. Optuna decides which runs there
are and remembers them; every run is two ordinary commands, `duet distill` and `duet evaluate`, in processes of their own.
"""

import os
import queue
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cache_match import notes_on
from pipeline.console import quieten_libraries, say
from pipeline.leaderboard import Leaderboard
from pipeline.options import settings_options
from pipeline.settings import Range, Settings, SweepSettings, load_settings
from pipeline.trust import refuse_untrusted
from stages.errors import DuetError, OutputExists, SettingsError
from stages.files import read_json, refuse_unwritable, write_json
from stages.interruption import received, started
from stages.language_model.folder import resolve_model
from stages.language_model.hardware import gpu_count
from stages.logit_cache.fingerprint import sha256_json
from stages.logit_cache.manifest import MANIFEST, read_manifest
from stages.logit_cache.reader import LogitCache
from stages.toml_text import toml_value

if TYPE_CHECKING:
    import optuna

Axes = Mapping[str, Any]
PLAN, JOURNAL = "sweep.json", "optuna.journal"
# Where a trial keeps its point: Optuna's own categories could not grow when an axis of a grid does.
AXES = "axes"


class RunFailed(DuetError):
    """One run of a sweep ended with an error; the others go on."""


@click.command()
@settings_options
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="A finished logit cache.")
@click.option("--out", "sweep_folder", required=True, type=click.Path(path_type=Path), help="Folder of the sweep.")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time; default: one per GPU, or one.")
@click.option(
    "--held-out", is_flag=True, help="Score on the held-out files: for a table of results, never to choose by."
)
@click.option("--preset-out", type=click.Path(path_type=Path), help="Write the best run's settings to this TOML file.")
def sweep(
    config: str,
    overrides: tuple[str, ...],
    cache: Path,
    sweep_folder: Path,
    jobs: int | None,
    held_out: bool,
    preset_out: Path | None,
) -> None:
    """Run the axes under [sweep] on one frozen CACHE, and rank the runs.

    Given again, it skips what is finished and retries what failed. Runs are scored on the validation files.

    \b
    Example:  duet sweep --config capitals --cache cache/demo --out runs/sweep \\
                --set sweep.axes.student.learning_rate=[5e-5,1e-4] --set sweep.axes.teacher.top_k=[5,20]
    """
    settings = load_settings(config, overrides)
    if not held_out:
        settings.on_validation()
    frozen = LogitCache(cache)
    refuse_untrusted(settings, frozen)
    refuse_bad_axes(settings.sweep, frozen)
    quieten_libraries()
    # Each run says so, too; a cache that does not belong to the student fails all of them.
    for note in notes_on(settings, frozen, resolve_model(settings.model.path)):
        say(note)
    base = Sweep(config, overrides, settings, cache, frozen.manifest.cache_id, sweep_folder, held_out)
    base.claim()
    jobs = jobs or max(gpu_count(), 1)
    board = Leaderboard(sweep_folder, settings.evaluation.forget_files)
    run_all(base, board, jobs)
    board.show()
    if preset_out:
        board.write_preset(preset_out)
    if failed := board.failed:
        raise RunFailed(
            f"{len(failed)} of {len(board)} runs failed, the first: {failed[0]}",
            "The others are in the leaderboard.",
            "Give the same command again to retry them.",
        )


@dataclass(frozen=True)
class Sweep:
    """What all runs of a sweep share."""

    config: str
    overrides: tuple[str, ...]
    settings: Settings
    cache: Path
    cache_id: str
    folder: Path
    held_out: bool

    def claim(self) -> None:
        """Make the folder this sweep's. Raises OutputExists if it holds another one, or something else.

        More values on an axis of a grid are the same sweep; another cache, other fixed settings, and another space to
        search are not: what a sampler learned in one space says nothing about the next.
        """
        fixed = self.settings.model_dump(mode="json", exclude={"sweep", "trust"})
        search = self.settings.sweep.model_dump(mode="json", exclude={"trials"})
        grid_only = self.settings.sweep.sampler == "grid"
        plan = {
            "cache_id": self.cache_id,
            "held_out": self.held_out,
            "settings_sha256": sha256_json(fixed),
            "search": "grid" if grid_only else search,
        }
        path = self.folder / PLAN
        if path.is_file():
            found = read_json(path, "The plan of a sweep was needed.", "Name another folder with --out.")
            if differing := [key for key, value in plan.items() if found.get(key) != value]:
                raise OutputExists(
                    f"{self.folder} holds another sweep: {', '.join(differing)} differ.",
                    "Its leaderboard would mix what cannot be compared.",
                    "Name another folder with --out.",
                )
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise OutputExists(f"{self.folder} already holds something that is not a sweep.", "It was left as it is.")
        refuse_unwritable(path)
        write_json(path, plan)

    def run(self, axes: Axes, gpu: int | None) -> Path:
        """Distil and evaluate one combination; returns its folder. Raises RunFailed with the last words of the command.

        A finished run is found by the hash of its settings and its cache, and not run again.
        """
        values = [f"{name}={toml_value(value)}" for name, value in axes.items()]
        settings = load_settings(self.config, (*self.overrides, *values))
        cache = self._sliced(settings.teacher.top_k, settings.teacher.positions)
        key = sha256_json(
            {"student": settings.student.model_dump(mode="json"), "cache_id": read_manifest(cache).cache_id}
        )[:12]
        run = self.folder / "runs" / key
        run.mkdir(parents=True, exist_ok=True)
        write_json(run.with_name(key + ".axes.json"), dict(axes))
        options = ["--config", self.config]
        for value in (*self.overrides, *values):
            options += ["--set", value]
        environment = dict(os.environ) if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
        log = run.with_name(key + ".log")
        # A slice carries no signature; what it was cut from was held to [trust] when the sweep began.
        signed = ["--set", "trust.require=false"] if cache != self.cache else []
        self._command(["distill", *options, *signed, "--cache", str(cache), "--out", str(run)], log, environment)
        scores = run / "evaluation.json"
        asked = [] if self.held_out else ["--validation"]
        # Base and teacher answer once per sweep.
        others = sorted(self.folder.glob("runs/*/evaluation.json"))
        if others and scores not in others:
            asked += ["--baseline", str(others[0])]
        evaluate = ["evaluate", *options, *asked, "--model", str(run / "model"), "--out", str(scores)]
        self._command(evaluate, log, environment)
        return run

    def _sliced(self, top_k: int, positions: int) -> Path:
        """The cache at this K and these positions, cut from the sweep's own if it has more."""
        fingerprint = read_manifest(self.cache).fingerprint
        if (top_k, positions) == (fingerprint.top_k, fingerprint.positions):
            return self.cache
        cut = self.folder / "caches" / f"k{top_k}-t{positions}"
        if not (cut / MANIFEST).is_file():
            cut.parent.mkdir(parents=True, exist_ok=True)
            size = ["--k", str(top_k), "--positions", str(positions)]
            self._command(
                ["cache", "slice", str(self.cache), *size, "--out", str(cut)], cut.with_suffix(".log"), dict(os.environ)
            )
        return cut

    def _command(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ duet {' '.join(arguments)}\n")
            file.flush()
            with started([sys.executable, "-m", "pipeline", *arguments], environment, file) as child:
                code = child.wait()
        if code:
            said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            found = next((line for line in reversed(said) if line.startswith("Error")), said[-1])
            raise RunFailed(f"{found} (code {code}; all of it: {log})")


def run_all(base: Sweep, board: Leaderboard, jobs: int) -> None:
    """Let Optuna hand out the runs that are still to be done, `jobs` at a time, one GPU each where there are any."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = base.settings.sweep
    study = open_study(base.folder, settings)
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:  # its sweep was killed
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    todo = enqueue(study, settings)
    gpus: queue.Queue[int | None] = queue.Queue()
    for job in range(jobs):
        gpus.put(job % gpu_count() if gpu_count() and jobs > 1 else None)

    def objective(trial: "optuna.Trial") -> tuple[float, float]:
        axes = choose(trial, settings)
        trial.set_user_attr(AXES, axes)
        named = ", ".join(f"{name.split('.')[1]} {value}" for name, value in axes.items())
        gpu = gpus.get()
        try:
            run = base.run(axes, gpu)
        except DuetError as error:
            trial.set_user_attr("error", str(error))
            if received:  # the whole sweep is to end, and its runs were stopped for that
                trial.study.stop()
                raise RunFailed(str(error)) from error
            say(f"failed: {named}: {error}")
            raise RunFailed(str(error)) from error
        finally:
            gpus.put(gpu)
        trial.set_user_attr("run", str(run.relative_to(base.folder)))
        forget, kept = board.objectives(run)
        say(f"done: {named}: forget {forget:.1f}, kept {kept:.1f}")
        return forget, kept

    finished = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    say(f"{base.folder}: {len(finished)} runs are finished, {todo} to do.")
    if todo:
        study.optimize(objective, n_trials=todo, n_jobs=jobs, catch=(RunFailed,))
    board.collect(study.get_trials(deepcopy=False), base)


def open_study(folder: Path, settings: SweepSettings) -> "optuna.Study":
    """The sweep's Optuna study, in a journal file (which, unlike SQLite, also works on network file systems)."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name="sweep",
        directions=["minimize", "maximize"],
        load_if_exists=True,
    )
    sampler = optuna.samplers.TPESampler if settings.sampler == "tpe" else optuna.samplers.RandomSampler
    # A sampler's state is not stored: with the seed alone, a sweep that goes on would draw its first points again.
    study.sampler = sampler(seed=settings.seed + len(study.get_trials(deepcopy=False)))
    return study


def enqueue(study: "optuna.Study", settings: SweepSettings) -> int:
    """Queue what is to be done, and count it: the missing points of a grid, failed runs, and new trials."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    state = optuna.trial.TrialState
    done = [trial.user_attrs[AXES] for trial in trials if trial.state == state.COMPLETE]
    waiting = [trial for trial in trials if trial.state == state.WAITING]
    if settings.sampler == "grid":
        queued = [trial.user_attrs[AXES] for trial in waiting]
        missing = [point for point in grid(settings) if point not in done]
        for point in missing:
            if point not in queued:
                study.enqueue_trial({}, user_attrs={AXES: point})
        return len(missing)
    # A failed point that nobody retried yet; Optuna hands out what is queued before it draws anew.
    known = done + [trial.system_attrs["fixed_params"] for trial in waiting]
    for trial in trials:
        if trial.state == state.FAIL and trial.params and trial.params not in known:
            study.enqueue_trial(trial.params)
            known.append(trial.params)
    return max(settings.trials - len(done), len(known) - len(done))


def grid(settings: SweepSettings) -> list[dict[str, Any]]:
    """Every combination of the axes once, the last axis fastest."""
    axes = {f"{section}.{key}": values for section, keys in settings.axes.items() for key, values in keys.items()}
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [point for index, point in enumerate(points) if point not in points[:index]]


def choose(trial: "optuna.Trial", settings: SweepSettings) -> dict[str, Any]:
    """The trial's value on every axis: of a grid the point that was queued, else what the sampler draws."""
    if settings.sampler == "grid":
        return dict(trial.user_attrs[AXES])
    chosen: dict[str, Any] = {}
    for section, keys in settings.axes.items():
        for key, values in keys.items():
            name = f"{section}.{key}"
            if isinstance(values, Range):
                whole = isinstance(values.low, int) and isinstance(values.high, int)
                draw: Any = trial.suggest_int if whole else trial.suggest_float
                chosen[name] = draw(name, values.low, values.high, log=values.log)
            else:
                chosen[name] = trial.suggest_categorical(name, values)
    return chosen


def refuse_bad_axes(settings: SweepSettings, cache: LogitCache) -> None:
    """Raise SettingsError if there is nothing to vary, or if an axis asks for more than the cache holds."""
    if not any(settings.axes.values()):
        raise SettingsError(
            "The settings name no axis to sweep.",
            "At least one was needed under [sweep.axes].",
            "For instance:  --set sweep.axes.student.learning_rate=[5e-5,1e-4]",
        )
    fingerprint = cache.manifest.fingerprint
    for key, most in (("top_k", fingerprint.top_k), ("positions", fingerprint.positions)):
        values = settings.axes.get("teacher", {}).get(key, ())
        asked = values.high if isinstance(values, Range) else max(values, default=0)
        if asked > most:
            raise SettingsError(
                f"The axis teacher.{key} goes up to {asked}, {cache.folder} holds {most}.",
                "A sweep never loads the teacher; it can only cut a cache smaller.",
                f"Capture more once:  make teacher-cache SET=teacher.{key}={asked} CACHE=…",
            )
