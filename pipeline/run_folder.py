"""The folder of a training run: claimed, locked, finished or another's; a run killed half-way passes for none of these."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import ModelError, OutputExists, TrainingError
from stages.files import TEMPORARY_SUFFIX, read_json, remove_tree, write_json
from stages.folder_lock import LOCK, FolderLock, hold_alone
from stages.language_model.folder import hash_weights
from stages.student.launch import is_launched
from stages.student.settings import NOT_DETERMINING

PLAN = "plan.json"
FINISHED = "run.json"
# As stages/student/checkpoints.py has it, which loads torch.
CHECKPOINTS = "checkpoints"
# Laid into the run by the process that was told to stop, for those that train.
STOP = "stop"
MODEL = "model"


@dataclass(frozen=True)
class RunFolder:
    """A run and what it is to hold.

    section: of the settings, the one that says how it is trained. identity: hashes of all that determines its weights;
    the settings' own is `{section}_sha256`. settings: all of them, as they were resolved.
    """

    path: Path
    section: str
    identity: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """Where the trained model appears, whole."""
        return self.path / MODEL

    @property
    def stop_file(self) -> Path:
        """Asks the processes that train for a stop, by being there."""
        return self.path / STOP

    @property
    def plan(self) -> dict[str, Any]:
        """What is written down before the first step."""
        return {**self.identity, "settings": dict(self.settings)}

    def is_finished(self) -> bool:
        """Whether it holds this very run, whole. Raises OutputExists if it holds another, or anything else."""
        for name in (FINISHED, PLAN):
            if not (self.path / name).is_file():
                continue
            found = read_json(self.path / name, "The record of a run was needed.", "Name another folder with --out.")
            if differing := self.differences(found):
                raise OutputExists(
                    f"{self.path} holds another run:\n    " + "\n    ".join(differing),
                    "It was left as it is.",
                    "Name another folder with --out (make: RUN=…), or move that one away.",
                )
            if name == FINISHED:
                return self._holds_model(found["model_sha256"])
            return False
        if self.path.exists() and (not self.path.is_dir() or self._foreign()):
            raise OutputExists(
                f"{self.path} already holds something that is not a run.",
                "Nothing was written there.",
                "Name another folder with --out (make: RUN=…), or move that one away.",
            )
        return False

    def _foreign(self) -> list[str]:
        """Names in the folder that no start of a run puts there."""
        names = [entry.name for entry in self.path.iterdir()]
        return [name for name in names if name != LOCK and not name.endswith(TEMPORARY_SUFFIX)]

    def _holds_model(self, sha256: str) -> bool:
        """Whether the exported model is there and whole; one that is damaged is trained anew."""
        try:
            return self.model.is_dir() and hash_weights(self.model) == sha256
        except ModelError:
            return False

    def differences(self, found: Mapping[str, Any]) -> list[str]:
        """One line for each thing that determines the weights and differs: `name: there → here`."""
        of_settings = f"{self.section}_sha256"
        lines = [
            f"{key}: {str(found.get(key))[:12]}… → {value[:12]}…"
            for key, value in self.identity.items()
            if key != of_settings and found.get(key) != value
        ]
        if found.get(of_settings) != self.identity[of_settings]:
            before, now = found.get("settings", {}).get(self.section) or {}, self.settings[self.section]
            changed = [key for key in now if before.get(key) != now[key] and key not in NOT_DETERMINING]
            named = [f"{self.section}.{key}: {before.get(key)} → {now[key]}" for key in changed]
            lines += named or [f"settings under [{self.section}]"]
        return lines

    def hold_alone(self) -> FolderLock:
        """Keep every other process from training here, as long as this one lives. Raises TrainingError."""
        return hold_alone(self.path, self._busy())

    def _busy(self) -> TrainingError:
        return TrainingError(
            f"{self.path} is being trained by another process.",
            "Two would overwrite each other's checkpoints, so this one stopped.",
            "Wait for the other or end it, or name another folder with --out (make: RUN=…).",
        )

    def clear(self) -> None:
        """Remove what an attempt that was killed has left beside the run: temporary folders and files, and a request to stop.

        To be called by whoever holds the folder alone.
        """
        for path in self._temporary():
            remove_tree(path)

    def tidy(self) -> None:
        """The same in a finished run, checkpoints included, unless another process is at work in it."""
        left = [self.path / CHECKPOINTS, self.stop_file, *self._temporary()]
        if not any(path.exists() or path.is_symlink() for path in left):
            return
        busy = self._busy()
        try:
            lock = hold_alone(self.path, busy)
        except TrainingError as error:
            if error is not busy:
                raise
            return
        try:
            for path in left:
                remove_tree(path)
        finally:
            lock.release()

    def _temporary(self) -> list[Path]:
        return [*self.path.glob("*" + TEMPORARY_SUFFIX), *self.path.glob(f"{MODEL}/*{TEMPORARY_SUFFIX}")]

    def begin(self) -> None:
        """Claim the folder for this run. What an unfinished attempt at the same run left is written anew."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / FINISHED).unlink(missing_ok=True)
        if not is_launched():  # else the process that launched this one may have laid it down by now
            self.stop_file.unlink(missing_ok=True)
        write_json(self.path / PLAN, self.plan)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write down, last of all, what was done."""
        write_json(self.path / FINISHED, {**self.plan, **record})
