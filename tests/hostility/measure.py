"""`make bench-hostile`: thousands of hostile caches, each read in every way in a process of its own, and counted.

The cases are numbered: `--only NUMBER` tries one of them again and says all about it.
"""

import argparse
import json
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from conftest import ROOT
from hostility.bases import Files, make_bases
from hostility.trial import MOST_MB, MOST_SECONDS, SHARES, Outcome, clear, make_case, try_case

from stages.files import write_atomically

SEED = 0
WAITING_SECONDS = 4 * MOST_SECONDS
TIMES_UP = (signal.SIGPROF, signal.SIGALRM)
# The page is written anew after so many cases, so that a measurement which is cut short has one.
CASES_BETWEEN_PAGES = 500
BAD = ("wrong", "traceback", "died", "too long", "too much memory")


def in_fork(work: object, *arguments: object) -> tuple[int, bytes]:
    """Wait status and what `work(report, *arguments)` reported. Arrow's threads do not survive a fork, so none may run here."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            work(lambda text: os.write(writing, text), *arguments)  # type: ignore[operator]
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    parts, deadline = [], time.monotonic() + WAITING_SECONDS + 30
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0] and (part := pipe.read(2**16)):
            parts.append(part)
    if time.monotonic() >= deadline:
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1], b"".join(parts)


def bases_in(folder: Path) -> dict[str, Files]:
    _, content = in_fork(lambda report: write_all(report, pickle.dumps(make_bases(folder))))
    found: dict[str, Files] = pickle.loads(content)
    return found


def write_all(report: object, content: bytes) -> None:
    for start in range(0, len(content), 2**15):
        report(content[start : start + 2**15])  # type: ignore[operator]


def one(report: object, seed: int, number: int, bases: dict[str, Files], folder: Path, thorough: bool) -> None:
    """In the child: make the case, try it, report lines of JSON."""
    generator, base, case = make_case(seed, number, bases)
    case = replace(case, further=None if thorough else number)
    head = {"number": number, "generator": generator, "base": base, "what": case.what[:200]}
    report(json.dumps(head).encode() + b"\n")  # type: ignore[operator]
    for each in TIMES_UP:
        signal.signal(each, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    # What waits takes no processor time; the clock is set for a machine that does other things as well.
    signal.alarm(WAITING_SECONDS)

    def half(how: str, detail: str) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        report(json.dumps({"half": how, "detail": detail}).encode() + b"\n")  # type: ignore[operator]

    outcome = try_case(case, folder, half)
    report(json.dumps(asdict(outcome)).encode() + b"\n")  # type: ignore[operator]


def outcomes(
    seed: int, numbers: Sequence[int], bases: dict[str, Files], folder: Path, *, thorough: bool = False
) -> Iterator[tuple[dict[str, str], Outcome]]:
    """Head and outcome of each case. thorough: every slow way of reading, not one of them in turn."""
    for number in numbers:
        status, content = in_fork(one, seed, number, bases, folder, thorough)
        clear(folder)
        lines = [json.loads(line) for line in content.splitlines()]
        head = lines[0] if lines else {"number": number, "generator": "none", "base": "", "what": "was not made"}
        if lines and "how" in lines[-1]:
            outcome = Outcome(**lines[-1])
            if outcome.megabytes > MOST_MB:
                outcome = Outcome("too much memory", outcome.detail, outcome.megabytes, outcome.seconds)
        elif len(lines) > 1:  # it was read; then pyarrow alone, asked by the rules, died of it
            taken = json.loads(lines[-1]["detail"])
            outcome = Outcome("wrong" if taken else "refused", f"taken by {taken}, and pyarrow dies of it", 0, 0)
        else:
            ended = os.waitstatus_to_exitcode(status)
            outcome = Outcome("too long" if -ended in TIMES_UP else "died", f"code {ended}", 0, 0)
        yield head, outcome


def page(counts: dict[str, Counter[str]], worst: dict[str, tuple[float, float]], seed: int, minutes: float) -> str:
    """The Markdown page."""
    total = sum((counts[name] for name in counts), Counter())
    tried = sum(total[each] for each in ("refused", "right", *BAD))
    lines = [
        "# Hostile caches",
        "",
        f"Written by `make bench-hostile`: {tried:,} hostile changes of sound caches, seed {seed}, {minutes:.0f} minutes.",
        "",
        "Each cache is read in every way that there is (opened, checked row by row, read as rows, as tables and one by one,",
        "outlined, verified, pulled, and sliced, merged or compared), in a process of its own. The format's rules, written down",
        "a second time in plain Python, say what may be read. A cache is *accepted wrongly* if any of these ways gives rows that",
        f"break a rule, or other rows than stand there. A traceback, a process that dies, more than {MOST_SECONDS} s of processor",
        f"time and more than {MOST_MB:,} MB are counted on their own. Changes that harm nothing (another writer's name in the",
        "footer, another encoding, other logits within the rules) are *accepted rightly*; where the reader is stricter about",
        "those than the rules, they are counted under *refused, though sound* as well.",
        "",
        "| changed | tried | refused | accepted rightly | accepted wrongly | traceback | died | too long | too much memory "
        "| refused, though sound | most memory, MB | longest, s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in [*SHARES, "all"]:
        found = total if name == "all" else counts[name]
        megabytes, seconds = worst[name] if name != "all" else tuple(map(max, zip(*worst.values(), strict=True)))
        count = sum(found[each] for each in ("refused", "right", *BAD))
        cells = [found[each] for each in ("refused", "right", *BAD, "strict")]
        row = " | ".join(f"{each:,}" for each in (count, *cells))
        lines.append(f"| {name} | {row} | {megabytes:.0f} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", type=int, help="one case, with all that is known of it")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/hostile.md")
    options = parser.parse_args()
    numbers = [options.only] if options.only is not None else range(options.first, options.first + options.cases)
    counts: dict[str, Counter[str]] = {name: Counter() for name in SHARES}
    worst = dict.fromkeys(SHARES, (0.0, 0.0))
    began = time.monotonic()
    shared_memory = Path("/dev/shm")  # thousands of folders; no disk is tested here
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as temporary:
        bases = bases_in(Path(temporary) / "bases")
        folder = Path(temporary) / "case"
        folder.mkdir()
        for head, outcome in outcomes(options.seed, numbers, bases, folder, thorough=options.only is not None):
            own = counts.setdefault(head["generator"], Counter())
            own[outcome.how] += 1
            own["strict"] += outcome.how == "refused" and bool(outcome.sound)
            before = worst.get(head["generator"], (0.0, 0.0))
            worst[head["generator"]] = (max(before[0], outcome.megabytes), max(before[1], outcome.seconds))
            done = head["number"] - options.first + 1
            if options.only is None and done % CASES_BETWEEN_PAGES == 0:
                minutes = (time.monotonic() - began) / 60
                write_atomically(options.out, page(counts, worst, options.seed, minutes).encode())
            if outcome.how in BAD or options.only is not None:
                print(json.dumps({**head, **asdict(outcome)}, ensure_ascii=False), flush=True)
    found = sum(counts[name][each] for name in counts for each in BAD)
    if options.only is None:
        write_atomically(options.out, page(counts, worst, options.seed, (time.monotonic() - began) / 60).encode())
        print(f"{options.out}: {found} faults", file=sys.stderr)
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
