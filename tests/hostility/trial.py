"""One case tried: every way of reading a cache, what each gave, and whether it might. To be run in a process of its own."""

import json
import re
import resource
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from hostility import harm_bytes, harm_files, harm_footer, harm_manifest, harm_rows
from hostility.bases import Files
from hostility.case import Case, lay
from hostility.rules import COLUMNS, Verdict, canonical, judge

from stages.errors import DuetError
from stages.logit_cache.difference import difference
from stages.logit_cache.merging import merge_caches
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row
from stages.logit_cache.slicing import slice_cache
from stages.logit_cache.transfer import pull
from stages.logit_cache.verification import verify

GENERATORS: dict[str, Callable[[Random, Files], Case]] = {
    "bytes of a shard": harm_bytes.harm,
    "fields of a footer": harm_footer.harm,
    "pages": harm_footer.harm_pages,
    "fields of the manifest": harm_manifest.harm,
    "rows": harm_rows.harm,
    "files": harm_files.harm,
}
# Of a hundred cases.
SHARES = {
    "bytes of a shard": 22,
    "fields of a footer": 26,
    "pages": 12,
    "fields of the manifest": 20,
    "rows": 16,
    "files": 4,
}
ORDER = [name for name, share in SHARES.items() for _ in range(share)]
# The columns at which a partial reading looks.
PARTS = {"frame": {"example_id", "split", "query"}, "outline": {"split", "student_input_ids", "response_ids"}}
MOST_SECONDS = 30
MOST_MB = 1000
# Beyond what is measured, so that a case cannot take the machine with it.
ADDRESS_SPACE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Outcome:
    """how: refused, right, wrong, traceback, died or too long. sound: what the rules say of the cache."""

    how: str
    detail: str
    megabytes: float
    seconds: float
    sound: bool | None = None


def make_case(seed: int, number: int, bases: dict[str, Files]) -> tuple[str, str, Case]:
    """The generator's name, the base's, and the case of this number: the same whenever it is asked for."""
    rng = Random(f"{seed} {number}")
    # Not in turns of the number, so that a short run has its share of each.
    generator, base = rng.choice(ORDER), rng.choice(list(bases))
    return generator, base, GENERATORS[generator](rng, dict(bases[base]))


def try_case(case: Case, folder: Path, report: Callable[[str, str], object]) -> Outcome:
    """Read the case in every way, then judge. report: told `how` and details before the rules are asked."""
    cache = folder / "cache"
    lay(case.files, cache)
    if case.on_disk:
        case.on_disk(cache)
    limit = memory_kb("VmSize") * 1024 + ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory_kb("VmRSS"), time.process_time()
    readings: dict[str, Any] = {}
    trouble = ""
    try:
        read_all(cache, case, readings, folder)
    except Exception:  # the finding itself
        trouble = "".join(traceback.format_exc(limit=-4))
    seconds, megabytes = time.process_time() - began, (memory_kb("VmHWM") - before) / 1024
    if trouble:
        return Outcome("traceback", trouble, megabytes, seconds)
    accepted = {name: value for name, value in readings.items() if not isinstance(value, DuetError)}
    how = "refused" if "checked" not in accepted else "right"
    report(how, json.dumps(sorted(accepted)))
    verdict = judge(case.files)
    wrong = contradictions(accepted, verdict)
    if case.sound is False:  # what is pulled from such a folder is the named files alone
        wrong += [f"{name} took it" for name in accepted if name != "pulled"]
    detail = "; ".join(wrong) or next(
        (str(each)[:300] for each in readings.values() if isinstance(each, DuetError)), ""
    )
    return Outcome(
        "wrong" if wrong else how, detail, megabytes, seconds, verdict.sound if case.sound is None else case.sound
    )


def memory_kb(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def read_all(cache: Path, case: Case, readings: dict[str, Any], folder: Path) -> None:
    """Fill in what each way gave: its value, or the DuetError with which it refused."""

    def attempt(name: str, read: Callable[[], Any]) -> None:
        try:
            readings[name] = read()
        except DuetError as error:
            readings[name] = error

    if not case.between:
        attempt("verified", lambda: refuse_faults(cache))
        attempt("pulled", lambda: pulled(cache, folder / "pulled"))
    try:
        opened = LogitCache(cache)
    except DuetError as error:
        readings["opened"] = error
        return
    if case.between:
        case.between(cache)
    attempt("checked", opened.check_every_row)
    attempt("rows", lambda: [of_row(row) for row in opened.rows()])
    attempt("row by row", lambda: [of_row(opened.row(index)) for index in reversed(range(len(opened)))][::-1])
    attempt("tables", lambda: [row for table in opened.tables() for row in of_table(table)])
    attempt("outline", lambda: [each.tolist() for each in opened.outline()])
    attempt("frame", lambda: opened.frame(COLUMNS[:3]).rows())
    further = {
        "sliced": lambda: sliced(opened, folder / "sliced"),
        "merged": lambda: merged(opened, folder / "merged"),
        "compared": lambda: shifts(opened),
    }
    for name in further if case.further is None else [list(further)[case.further % len(further)]]:
        attempt(name, further[name])


def refuse_faults(cache: Path) -> None:
    for fault in verify(cache).faults:
        raise DuetError(f"{fault.shard} {fault.message}")


def of_row(row: Row) -> tuple[Any, ...]:
    values = [getattr(row, name) for name in COLUMNS]
    return canonical(tuple(each if isinstance(each, str) else each.tolist() for each in values))


def of_table(table: pa.Table) -> list[tuple[Any, ...]]:
    return [canonical(tuple(row[name] for name in COLUMNS)) for row in table.to_pylist()]


def rows_in(folder: Path) -> list[tuple[Any, ...]]:
    return [of_row(row) for row in LogitCache(folder).rows()]


def pulled(cache: Path, out: Path) -> list[tuple[Any, ...]]:
    pull(str(cache), out)
    return rows_in(out)


def shifts(opened: LogitCache) -> list[float]:
    found: list[float] = difference(opened, opened)["max_abs_shift"].to_list()
    return found


def sliced(opened: LogitCache, out: Path) -> list[tuple[Any, ...]]:
    whole = opened.manifest.fingerprint
    slice_cache(opened, out, top_k=whole.top_k, positions=whole.positions, command=[], duet_version="")
    return rows_in(out)


def merged(opened: LogitCache, out: Path) -> list[tuple[Any, ...]]:
    merge_caches([opened, opened], out, command=[], duet_version="")
    return rows_in(out)


def contradictions(accepted: dict[str, Any], verdict: Verdict) -> list[str]:
    """What was read and should not have been, or was read otherwise than it stands there."""
    found = []
    fault = verdict.row_fault
    for name, value in accepted.items():
        if name in PARTS:
            expected = part_of(verdict, name)
        elif fault:
            found.append(f"{name}: {fault}")
            continue
        elif name in ("checked", "verified"):
            whole = verdict.cache_fault or (verdict.fine_fault if name == "verified" else None)
            found += [f"{name}: {whole}"] if whole else []
            continue
        elif name == "compared":
            expected = [0.0] * len(verdict.rows or ())
        elif name == "pulled" and verdict.cache_fault:
            found.append(f"{name}: {verdict.cache_fault}")
            continue
        elif name == "merged" and verdict.cache_fault:
            continue  # of an example that stands twice, one is kept
        else:
            expected = verdict.rows
        if value != expected:
            found.append(f"{name}: not what stands there ({fault or 'sound'})")
    return found


def part_of(verdict: Verdict, name: str) -> Any:
    """What an outline or a frame of the cache shows; None if the columns that it needs are not as promised."""
    columns = verdict.columns
    if not columns.keys() >= PARTS[name]:
        return None
    if name == "frame":
        return list(zip(*(columns[each] for each in COLUMNS[:3]), strict=True))
    inputs, responses = columns["student_input_ids"], columns["response_ids"]
    tokens = [len(one) + len(other) for one, other in zip(inputs, responses, strict=True)]
    return [[split == "forget" for split in columns["split"]], tokens]


def clear(folder: Path) -> None:
    """Remove what a case has left, whatever it is."""
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
