"""Commands that write, with inputs on which it takes a moment. `{in}` is only read, `{out}` is the run's own folder."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conftest import make_tiny_model, write_cache
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from kills.running import in_fork
from workspace import make_workspace


@dataclass(frozen=True)
class Command:
    """kills: of 1,000. start: what lies in `{out}` before; given `{in}` and `{out}`."""

    arguments: str
    kills: int
    start: Callable[[Path, Path], object] = lambda inputs, out: None


def with_run(inputs: Path, out: Path) -> None:
    """A finished run with its evaluation."""
    shutil.copytree(inputs / "run", out / "run")


def with_cache(inputs: Path, out: Path) -> None:
    """A cache that may be changed."""
    shutil.copytree(inputs / "made-up", out / "cache")


CONFIG = "--config {in}/topic.toml"
FINETUNE = "--set finetune.model={in}/tiny --set finetune.forget=[\"{in}/questions-forget.jsonl\"] " \
    "--set finetune.retain=[\"{in}/questions-retain.jsonl\"] --set finetune.batch_rows=2 --set finetune.epochs=3 " \
    "--set finetune.zero_stage=0 --set finetune.checkpoint_steps=2"  # fmt: skip
# Relearning starts a training. Requests are put together with polars in a process of their own, and polars hangs in a fork of
# a process that has used it.
ALIKE = "--without relearning --without instructions"
STUDENT = "--set student.epochs=3 --set student.checkpoint_steps=1"
COMMANDS: dict[str, Command] = {
    "cache slice": Command("cache slice {in}/made-up --k 3 --positions 2 --out {out}/sliced", 150),
    "cache merge": Command("cache merge {in}/made-up {in}/other --out {out}/merged", 120),
    "cache push": Command("cache push {in}/made-up {out}/remote", 120),
    "cache push --no-text": Command("cache push {in}/made-up {out}/remote --no-text", 120),
    "cache pull": Command("cache pull {in}/made-up {out}/pulled", 120),
    "cache sign": Command("cache sign {out}/cache --key {in}/key", 20, with_cache),
    "teacher-cache": Command(f"teacher-cache {CONFIG} --out {{out}}/cache", 120),
    "report": Command("report --run {out}/run", 60, with_run),
    "results": Command("results topic={in}/results --out {out}/RESULTS.md", 20),
    "distill": Command(f"distill {CONFIG} --cache {{in}}/cache --out {{out}}/run {STUDENT}", 100),
    "finetune": Command(f"finetune {CONFIG} {FINETUNE} --out {{out}}/run", 50),
    "evaluate": Command(f"evaluate {CONFIG} --model {{in}}/run/model --out {{out}}/evaluation.json", 60),
    "prefixes": Command(f"prefixes {CONFIG} --out {{out}}/prefixes.md {{in}}/prefix.json {{in}}/other.json", 20),
    "audit": Command(
        f"audit {CONFIG} --set evaluation.samples=2 {ALIKE} --model {{in}}/run/model --out {{out}}/audit.json", 16
    ),
}  # fmt: skip


def prepare(folder: Path, run: Callable[[Sequence[str]], object]) -> None:
    """The inputs, made by the commands themselves. run: one command to its end."""
    folder.mkdir()
    in_fork(lambda: _made_by_hand(folder))
    config = ("--config", f"{folder}/topic.toml")
    run(["teacher-cache", *config, "--out", f"{folder}/cache"])
    run(["distill", *config, "--cache", f"{folder}/cache", "--out", f"{folder}/run"])
    run(["evaluate", *config, "--model", f"{folder}/run/model", "--out", f"{folder}/run/evaluation.json"])
    (folder / "results/seed-0").mkdir(parents=True)
    run(
        ["audit", *config, "--without", "relearning", "--without", "quantisation", "--without", "instructions",
         "--set", "evaluation.samples=2",
         "--model", f"{folder}/run/model", "--out", f"{folder}/results/seed-0/audit.json"]
    )  # fmt: skip


def _made_by_hand(folder: Path) -> None:
    workspace = make_workspace(folder, make_tiny_model(folder / "tiny"))
    text = workspace.settings.read_text().replace("shard_rows = 4", "shard_rows = 2")
    workspace.settings.write_text(text)
    (folder / "other.json").write_text('{"system": "You know no capital."}')
    write_cache(folder / "made-up", 18, 4)
    write_cache(folder / "other", 24, 8)
    key = Ed25519PrivateKey.generate()
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / "key").chmod(0o600)


def arguments_of(command: Command, inputs: Path, out: Path) -> list[str]:
    text = command.arguments.replace("{in}", str(inputs)).replace("{out}", str(out))
    return text.split(" ")
