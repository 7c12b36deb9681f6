"""`make bench-kills`: every command that writes is killed at random, given again, and compared with one that was not.

Each kill has its number; `--only COMMAND --first NUMBER` repeats it.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from conftest import ROOT
from kills.commands import COMMANDS, Command, arguments_of, prepare
from kills.outputs import Expected, tree
from kills.running import Ended, forked, import_everything, really

from stages.files import write_atomically

SEED = 0
SIGNALS = [signal.SIGKILL] * 7 + [signal.SIGTERM, signal.SIGINT, signal.SIGINT]
# A training in two processes starts them by itself, and the default model is large: they are not forked from here.
STARTED = [
    *(COMMANDS[name] for name in ("cache slice", "teacher-cache", "distill", "evaluate")),
    replace(COMMANDS["distill"], arguments=COMMANDS["distill"].arguments + " --set student.processes=2"),
    Command("default-model --out {out}/model", 1),
]
WORDS = (
    "same result",
    "another result",
    "left behind",
    "left in the temporary folder",
    "traceback",
    "process left",
    "failed",
)


@dataclass
class Bench:
    """A folder with the inputs, where one command after the other is run and killed."""

    folder: Path

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def scratch(self) -> Path:
        return self.folder / "tmp"

    def prepare(self) -> None:
        self.scratch.mkdir()

        def run(arguments: Sequence[str]) -> None:
            ended = forked(arguments, self.scratch, (self.out,), 0, signal.SIGKILL)
            assert ended.code == 0, ended.output

        prepare(self.inputs, run)

    def clean(self, command: Command) -> None:
        for path in (self.out, self.scratch):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        command.start(self.inputs, self.out)

    def run(
        self, command: Command, kill_at: int = 0, number: signal.Signals = signal.SIGKILL, after: float = 0
    ) -> Ended:
        arguments = arguments_of(command, self.inputs, self.out)
        return forked(arguments, self.scratch, (self.out, self.scratch), kill_at, number, after)

    def expected(self, command: Command) -> tuple[Expected, set[str], int, float]:
        """What the command leaves, in its folder and in the temporary one, its changes of the disk and its seconds."""
        trees = []
        began = time.monotonic()
        for _ in range(2):
            self.clean(command)
            ended = self.run(command)
            assert ended.code == 0, ended.output
            trees.append(tree(self.out))
        seconds = (time.monotonic() - began) / 2
        return Expected(*trees), set(tree(self.scratch)), ended.steps, seconds

    def judge(
        self, command: Command, last: Ended, outputs: list[str], expected: Expected, usual: set[str]
    ) -> list[str]:
        """WORDS that hold after the same command was given again."""
        if last.code != 0:
            return ["failed"]
        left, differing = expected.differences(tree(self.out))
        found = ["another result" if differing else "same result"]
        if left:
            found.append("left behind")
        if set(tree(self.scratch)) - usual:
            found.append("left in the temporary folder")
        if any("Traceback (most recent call last)" in each for each in outputs):
            found.append("traceback")
        return found


def kill_and_repeat(
    bench: Bench, command: Command, rng: Random, expected: tuple[Expected, set[str], int, float]
) -> tuple[list[str], str]:
    """One to three kills and then the whole command; what came of it, and what was done."""
    wanted, usual, steps, seconds = expected
    bench.clean(command)
    outputs, done, survivors = [], [], False
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.8:
            number, at = rng.choice(SIGNALS), 1 + rng.randrange(steps)
            ended = bench.run(command, at, number)
            done.append(f"{number.name} at change {at}")
        else:
            after = rng.uniform(0.1, 1) * seconds
            ended = bench.run(command, after=after)
            done.append(f"SIGKILL after {after:.2f} s")
        outputs.append(ended.output)
        survivors |= ended.survivors
    last = bench.run(command)
    found = bench.judge(command, last, [*outputs, last.output], wanted, usual)
    if survivors:
        found.append("process left")
    if found != ["same result"]:
        left, differing = wanted.differences(tree(bench.out)) if last.code == 0 else ([], [])
        extra = sorted(set(tree(bench.scratch)) - usual)
        done.append(f"left {left[:5]}, differing {differing[:5]}, temporary {extra[:3]}")
        done += [f"output: {each[-700:]}" for each in (*outputs, last.output) if "Traceback" in each or last.code]
    return found, "; ".join(done)


def page(counts: dict[str, Counter[str]], kills: dict[str, int], seed: int, real: Counter[str]) -> str:
    total = sum(counts.values(), Counter())
    # Of a measurement that was cut short there are none.
    started = [
        f"{real['tried']} more, training in two processes among them, were started anew and killed by time: "
        f"{real['same result']} gave the same result."
    ] * bool(real["tried"])
    lines = [
        "# Kills",
        "",
        f"Written by `make bench-kills`: {sum(kills.values()):,} runs on tiny models were killed one to three times each, and then "
        f"the same command was given again (seed {seed}).",
        "",
        "Four of five kills come before a change of the disk chosen at random among all that the command makes (a file opened,",
        "an fsync, a rename, a removal, a new folder), the others after a random time. Seven in ten are SIGKILL to all processes",
        "of the command, the others SIGINT or SIGTERM. Afterwards the outputs are compared file by file with those of two runs",
        "that nobody interrupted (without times and speeds), and so are the folder and the system's temporary folder.",
        "The runs are forks of one process that has imported everything.",
        *started,
        "",
        "| command | kills | " + " | ".join(WORDS) + " |",
        "|---|--:|" + "--:|" * len(WORDS),
    ]
    for name, found in [*counts.items(), ("all", total)]:
        tried = kills[name] if name != "all" else sum(kills.values())
        lines.append(f"| {name} | {tried:,} | " + " | ".join(f"{found[word]:,}" for word in WORDS) + " |")
    return "\n".join(lines) + "\n"


def start_really(bench: Bench, rng: Random, tries: int) -> Counter[str]:
    """Commands started as people start them, killed after a random time, and given again."""
    found: Counter[str] = Counter()
    for command in STARTED[:tries]:
        arguments = arguments_of(command, bench.inputs, bench.out)
        trees = []
        for _ in range(2):
            bench.clean(command)
            began = time.monotonic()
            really(arguments, bench.scratch, ROOT)
            seconds = time.monotonic() - began
            trees.append(tree(bench.out))
        expected, usual = Expected(*trees), set(tree(bench.scratch))
        for _ in range(max(tries // len(STARTED), 1)):
            bench.clean(command)
            ended = [really(arguments, bench.scratch, ROOT, after=rng.uniform(0.3, 1) * seconds)]
            ended.append(really(arguments, bench.scratch, ROOT))
            outputs = [each.output for each in ended]
            found.update(["tried", *bench.judge(command, ended[-1], outputs, expected, usual)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the kills of each command")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", action="append", choices=COMMANDS, help="these commands alone")
    parser.add_argument(
        "--known", type=Path, help="JSON lines of commands that an earlier run has tried: taken over, added to"
    )
    parser.add_argument("--first", type=int, help="with --only: this kill alone")
    parser.add_argument("--real", type=int, default=12, help="runs of really started processes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/kills.md")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    import_everything()
    counts, kills, bad = {}, {}, 0
    lines = options.known.read_text().splitlines() if options.known and options.known.exists() else []
    known = {each["name"]: each for each in map(json.loads, lines)}
    real = Counter[str]()
    shared_memory = Path("/dev/shm")
    # Not TemporaryDirectory: forks, too, would remove it when they end.
    folder = Path(tempfile.mkdtemp(dir=shared_memory if shared_memory.is_dir() else None))

    def publish() -> None:
        """After each command, so that a measurement which is cut short has its page."""
        if options.only is None:
            write_atomically(options.out, page(counts, kills, options.seed, real).encode())

    try:
        bench = Bench(folder)
        bench.prepare()
        for name in options.only or COMMANDS:
            if name in known:
                kills[name], counts[name] = known[name]["kills"], Counter(known[name]["found"])
                continue
            expected = bench.expected(COMMANDS[name])
            print(f"{name}: {expected[2]} changes, {expected[3]:.1f} s", file=sys.stderr, flush=True)
            counts[name], kills[name] = Counter[str](), max(round(COMMANDS[name].kills * options.share), 1)
            numbers = range(kills[name]) if options.first is None else [options.first]
            for number in numbers:
                found, done = kill_and_repeat(
                    bench, COMMANDS[name], Random(f"{options.seed} {name} {number}"), expected
                )
                counts[name].update(found)
                if found != ["same result"] or options.first is not None:
                    bad += 1
                    print(f"{name} {number}: {', '.join(found)}: {done}", flush=True)
            if options.known:
                with options.known.open("a") as file:
                    file.write(json.dumps({"name": name, "kills": kills[name], "found": counts[name]}) + "\n")
            publish()
        real.update(start_really(bench, Random(options.seed), options.real))
        publish()
    finally:
        shutil.rmtree(folder)
    print(f"{sum(kills.values())} runs, {bad} faults; {dict(real)}", file=sys.stderr)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
