"""A run's checkpoints: whole, or not there.

A folder `step-NNNNNNNN` that DeepSpeed filled under a temporary name, hashed and made durable file by file, then named by
a rename. DeepSpeed's own `latest` is neither atomic nor checked, so it is not used. This module knows files, processes
and nothing of what is in the files.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field

from stages.errors import DataError, OutputExists, TrainingError
from stages.files import TEMPORARY_SUFFIX, open_plain, sha256_file, sync_folder, write_atomically
from stages.untrusted_json import MOST_BYTES, Malformed, parse_model

FOLDER = "checkpoints"
# A process saves a few of them.
MOST_FILES = 100_000
MARKER = "checkpoint.json"
METRICS = "metrics.jsonl"
# torch reports a write that failed as a RuntimeError without the number of the fault: these name its writer of files.
TORCH_CANNOT_WRITE = ("inline_container", "PytorchStreamWriter", "failed writing file")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class File(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0, description="Size.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file.")


class Marker(BaseModel):
    """What makes a folder a checkpoint; written into it last, before it gets its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(ge=1, description="Optimiser steps done; with the seed it is the position in the sample stream.")
    identity: dict[str, str] = Field(description="What determines the weights: cache id, base model, settings.")
    world: int = Field(ge=1, description="Processes that saved it.")
    files: dict[str, File] = Field(description="Every other file, by its path in the folder.")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. folder: where it lies; its name is the tag that DeepSpeed loads."""

    folder: Path
    step: int
    world: int

    @property
    def metrics(self) -> Path:
        """The run's metrics up to this step."""
        return self.folder / METRICS


class Checkpoints:
    """The checkpoints of one run. All processes call each method together.

    run: the run's folder. identity: what determines the run's weights; a checkpoint with another one is refused.
    keep: complete checkpoints that stay.
    """

    def __init__(self, run: Path, identity: Mapping[str, str], *, keep: int) -> None:
        self.folder = run / FOLDER
        self._identity = dict(identity)
        self._keep = keep

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint, every file of it hashed; None if there is none.

        Damaged ones are passed over. Raises OutputExists if it belongs to another run.
        """
        for folder in self._complete():
            try:
                with open_plain(folder / MARKER) as file:
                    marker = parse_model(Marker, file.read(MOST_BYTES + 1), most_keys=MOST_FILES)
            except (OSError, DataError, Malformed):
                continue
            if not self._is_sound(folder, marker):
                continue
            if differing := [key for key, value in self._identity.items() if marker.identity.get(key) != value]:
                raise OutputExists(
                    f"{folder} was saved by another run: {', '.join(differing)} differ.",
                    "Going on from it would mix two runs, so nothing was trained.",
                    "Name another folder with --out (make: RUN=…), or move that one away.",
                )
            return Checkpoint(folder, marker.step, marker.world)
        return None

    def save(self, step: int, metrics: Path, write: Callable[[Path, str], None]) -> None:
        """Save a checkpoint after `step` optimiser steps.

        metrics: the run's metrics so far, kept in the checkpoint. write: called on every process with a folder and a tag;
        it fills folder/tag. Raises TrainingError if there is no room; earlier checkpoints stay as they are.
        """
        name = f"step-{step:08d}"
        temporary = self.folder / (name + TEMPORARY_SUFFIX)
        leads = dist.get_rank() == 0
        try:
            if leads:
                for left in self.folder.glob("*" + TEMPORARY_SUFFIX):
                    shutil.rmtree(left)
                temporary.mkdir(parents=True)
                shutil.copyfile(metrics, temporary / METRICS)
            dist.barrier()
            write(self.folder, temporary.name)
            dist.barrier()
            files = self._make_durable(temporary)
            if leads:
                marker = Marker(step=step, identity=self._identity, world=dist.get_world_size(), files=files)
                write_atomically(temporary / MARKER, marker.model_dump_json(indent=1).encode())
                for folder in {temporary, *(path.parent for path in temporary.rglob("*"))}:
                    sync_folder(folder)
                self._publish(temporary, self.folder / name)
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in TORCH_CANNOT_WRITE):
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            raise TrainingError(
                f"The checkpoint of step {step} could not be written to {self.folder}: {str(error).splitlines()[0]}",
                "Earlier checkpoints stay as they are; nothing half-written counts.",
                "Make room, then give the same command again: it goes on from the newest whole checkpoint.",
            ) from error
        dist.barrier()

    def remove(self) -> None:
        """Remove all of them, once the run is finished. Called by one process."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self) -> list[Path]:
        """Folders under their final name, the newest first."""
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)

    def _publish(self, temporary: Path, final: Path) -> None:
        if final.exists():  # a damaged one, which `newest` passed over
            shutil.rmtree(final)
        temporary.rename(final)
        sync_folder(self.folder)
        for old in self._complete()[self._keep :]:
            # Renamed first: what is removed by half must not look whole.
            old.rename(old.with_name(old.name + TEMPORARY_SUFFIX))
            shutil.rmtree(old.with_name(old.name + TEMPORARY_SUFFIX))

    def _make_durable(self, folder: Path) -> dict[str, File]:
        """Flush and hash every file, each process its share."""
        own: dict[str, File] = {}
        for name in _share(_files(folder)):
            path = folder / name
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            own[name] = File(bytes=path.stat().st_size, sha256=sha256_file(path))
        shares: list[dict[str, File]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(shares, own)
        return {name: file for share in shares for name, file in sorted(share.items())}

    def _is_sound(self, folder: Path, marker: Marker) -> bool:
        """Whether every file is there as it was saved; each process hashes its share."""
        sound = set(_files(folder)) == marker.files.keys() and all(
            (folder / name).stat().st_size == marker.files[name].bytes
            and sha256_file(folder / name) == marker.files[name].sha256
            for name in _share(sorted(marker.files))
        )
        verdicts: list[bool] = [False] * dist.get_world_size()
        dist.all_gather_object(verdicts, sound)
        return all(verdicts)


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MARKER
    )


def _share(names: list[str]) -> list[str]:
    return names[dist.get_rank() :: dist.get_world_size()]
