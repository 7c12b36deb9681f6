"""The modules of modules.toml in, docs/results/mutants.md out: how many small faults the tests notice, and which they miss.

Ends with code 1 if more than MOST_SURVIVE of the mutants survive, or if one does without a reason in harmless.toml.
"""

import argparse
import hashlib
import json
import random
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forks import LEAST_TIMEOUT_S, PATIENCE, ROOT, Workplace, load_heavy
from mutations import Mutant, mutants

HERE = Path(__file__).parent
MOST_SURVIVE = 0.10


@dataclass
class Outcome:
    """What came of one module. tried: mutants; untried: those left out; missed: those that no test noticed."""

    module: str
    tried: int = 0
    untried: int = 0
    missed: list[Mutant] = field(default_factory=list)


def main() -> int:
    options = arguments()
    tests = read("modules.toml")["tests"]
    chosen = [name for name in tests if not options.modules or any(part in name for part in options.modules)]
    if options.named:
        chosen = list(dict.fromkeys(entry["module"] for entry in read("modules.toml")["must_be_killed"]))
    reasons = {
        (entry["module"], entry["text"], change): entry["reason"]
        for entry in read("harmless.toml")["harmless"]
        for change in entry["changes"]
    }
    if not options.known:
        load_heavy()
    with tempfile.TemporaryDirectory() as folder:
        place = None if options.known else Workplace(Path(folder))
        found = [attempt(place, name, tests[name], reasons, options) for name in chosen]
    tried, missed = totals(found)
    if options.named:
        print(f"{tried - missed} of {len(read('modules.toml')['must_be_killed'])} named mutants are killed.")
        return int(tried - missed < len(read("modules.toml")["must_be_killed"]))
    options.out.write_text(page(found, reasons, options), encoding="utf-8")
    unexplained = [each for outcome in found for each in outcome.missed if key(each) not in reasons]
    print(f"{tried} mutants, {missed} survive ({share(missed, tried)}), {len(unexplained)} of them without a reason.")
    return int(missed > MOST_SURVIVE * tried or bool(unexplained))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="Parts of the names of modules; none: all.")
    parser.add_argument("--sample", type=int, help="So many mutants of each module, chosen by the seed; default: all.")
    parser.add_argument(
        "--named", action="store_true", help="Only the few mutants of modules.toml that must be killed."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--known", action="store_true", help="Try none; report what is known by --kills.")
    parser.add_argument(
        "--kills",
        type=Path,
        help="Kills of earlier runs on the same source: taken over, and added to. "
        "What has a reason in harmless.toml is then not tried either: it survives.",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/mutants.md")
    return parser.parse_args()


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


def attempt(
    place: Workplace | None,
    module: str,
    tests: Sequence[str],
    reasons: Mapping[tuple[str, str, str], str],
    options: argparse.Namespace,
) -> Outcome:
    """Try the module's mutants, or a sample of them; without a place none, and only what is known counts."""
    source = (ROOT / module).read_text(encoding="utf-8")
    every = mutants(module, source)
    if options.named:
        named = [(entry["module"], entry["text"], entry["change"]) for entry in read("modules.toml")["must_be_killed"]]
        every = [each for each in every if key(each) in named]
    if options.sample is not None and options.sample < len(every):
        every = random.Random(f"{options.seed} {module}").sample(every, options.sample)
    outcome = Outcome(module, tried=len(every))
    known = kills(options.kills, source)
    unknown = [each for each in every if f"{each.line} {each.change}" not in known]
    if options.kills:
        outcome.missed = [each for each in unknown if key(each) in reasons]
    unknown = [each for each in unknown if each not in outcome.missed]
    if place is None:
        outcome.tried, outcome.untried = outcome.tried - len(unknown), len(unknown)
        return outcome
    begun = time.monotonic()
    timeout_s = max(PATIENCE * place.seconds(tests), LEAST_TIMEOUT_S)
    left = [(each, tests, timeout_s) for each in unknown]
    for mutant, survived in place.survivors(left, workers=options.workers):
        if not survived and options.kills:
            with options.kills.open("a", encoding="utf-8") as file:
                file.write(json.dumps([sha256(source), f"{mutant.line} {mutant.change}"]) + "\n")
        if survived:
            outcome.missed.append(mutant)
            print(f"  survives: {module}:{mutant.line}: {mutant.text}\n    {mutant.change}", flush=True)
    outcome.missed.sort(key=lambda each: each.line)
    killed = outcome.tried - len(outcome.missed)
    print(f"{module}: {killed} of {outcome.tried} killed, {time.monotonic() - begun:.0f} s", flush=True)
    return outcome


def kills(path: Path | None, source: str) -> set[str]:
    """What an earlier run killed in this very source. Tests that were added since kill no fewer."""
    lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
    return {change for hashed, change in map(json.loads, lines) if hashed == sha256(source)}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key(mutant: Mutant) -> tuple[str, str, str]:
    return mutant.module, mutant.text, mutant.change


def totals(found: Sequence[Outcome]) -> tuple[int, int]:
    return sum(each.tried for each in found), sum(len(each.missed) for each in found)


def share(missed: int, tried: int) -> str:
    return f"{missed / tried:.1%}" if tried else "–"


def page(found: Sequence[Outcome], reasons: dict[tuple[str, str, str], str], options: argparse.Namespace) -> str:
    """The page: a table of all modules, then each survivor with the reason why it does no harm."""
    tried, missed = totals(found)
    untried = sum(each.untried for each in found)
    what = (
        ("Mutants" if untried else "Every mutant")
        if options.sample is None
        else f"A sample of {options.sample} mutants a module (seed {options.seed})"
    )
    several_runs = (
        "",
        "Measured in several runs, while tests were added: a kill on the same source was taken over, since tests that are added",
        "kill no fewer; and a mutant with a reason below was not tried again once the reason was written: it counts as survived.",
    )
    left_out = (
        "Not tried are those that no run came to, or not again since a test or a reason was written for them; they count as",
        "neither.",
    )
    taken_over = (*(several_runs if options.kills else ()), *(left_out if untried else ()))
    lines = [
        "# Small faults, and whether the tests notice them",
        "",
        f"Written by `make mutants`. {what} of the modules below: one fault in one place of one module, such as `<` for",
        "`<=`, `+` for `-`, another constant, another bound of a slice, a condition that always or never holds, a statement",
        "left out, or two arguments exchanged. A mutant is killed if one of the module's fast tests fails on it, or runs",
        f"{PATIENCE} times as long as without it. Left alone are docstrings, annotations, assertions and the words of errors.",
        *taken_over,
        "",
        "| module | tried | killed | survived | share | not tried |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        count = len(each.missed)
        lines.append(
            f"| `{each.module}` | {each.tried} | {each.tried - count} | {count} | {share(count, each.tried)} | {each.untried} |"
        )
    lines += [
        f"| all | {tried} | {tried - missed} | {missed} | {share(missed, tried)} | {untried} |",
        "",
        "## Survivors",
    ]
    for each in found:
        if not each.missed:
            continue
        lines += ["", f"### {each.module}", ""]
        # What is harmless for one reason stands under it.
        grouped: dict[tuple[str, str], list[str]] = {}
        for mutant in each.missed:
            reason = reasons.get(key(mutant), "**No reason is known: a test is missing.**")
            grouped.setdefault((mutant.text, reason), []).append(f"{code(mutant.change)} (line {mutant.line})")
        lines += [f"- {code(text)}: {', '.join(changes)}. {reason}" for (text, reason), changes in grouped.items()]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """As code in Markdown, whatever backticks it holds."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    raise SystemExit(main())
