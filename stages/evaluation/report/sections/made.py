"""How it was made: training, costs, settings, commands; and the list of what was not measured."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stages.evaluation.report import plots
from stages.evaluation.report.document import Block, Code, Figure, Missing, Panel, Prose, Section
from stages.evaluation.report.parts import not_measured
from stages.evaluation.report.plots import Mark
from stages.evaluation.report.rows import Audit, Role, Step, Training
from stages.evaluation.report.tables import table
from stages.evaluation.report.words import duration, points, thousands
from stages.logit_cache.manifest import Manifest
from stages.toml_text import toml_text

NOT_KNOWN = "not known"
NO_RECORD = "there is no run.json beside the audit"


def training(record: Training | None, steps: Sequence[Step]) -> Section:
    """The loss of each step, forget and retain rows apart."""
    if not steps:
        reason = NO_RECORD if record is None else "there is no metrics.jsonl beside the audit"
        return Section("training", "Training", (Missing("Training curve", reason),))
    # Forget rows in the student's colour; retain rows as dashes, in the base's.
    kinds: tuple[tuple[str, Role, str], ...] = (("forget", "student", "loss_forget"), ("retain", "base", "loss_retain"))
    panels, told = [], []
    for name, role, column in kinds:
        losses = [(each.step, getattr(each, column)) for each in steps if getattr(each, column) is not None]
        if not losses:
            continue
        curve = {float(step): Mark(loss, None, None) for step, loss in losses}
        label = f"Loss on {name} rows: {points(losses[0][1])} at first, {points(losses[-1][1])} at last."
        told.append((name, losses))
        panels.append(Panel(label, f"{name} rows", plots.curves(f"loss-{name}", {role: curve}, "steps", "Huber loss")))
    rows = [(f"{thousands(at)}", *(points(dict(losses).get(at), 3) for _, losses in told)) for at in _some_steps(steps)]
    figure = Figure(
        "Training loss",
        "Huber distance to the teacher's Top-K raw logits, mean over the rows of a step.",
        tuple(panels),
        table(
            "Loss at some of the steps; all are in metrics.jsonl",
            ("step", *(f"{name} rows" for name, _ in told)),
            rows,
            missing="no such row in this step",
            folded=True,
        ),
    )
    return Section("training", "Training", (figure,))


def costs(audit: Audit, record: Training | None, steps: Sequence[Step], capture: Manifest | str) -> Section:
    """Queries, tokens, steps, seconds, joules: what is known of them. capture: the cache's manifest, or why there is none."""
    asked, sampled = len(audit.answers), sum(each.samples for each in audit.samples or ())
    joules = {"training": record.joules if record else None, "audit": audit.run.joules}
    trained = NOT_KNOWN if not steps else thousands(sum(each.tokens_per_s * each.step_s for each in steps))
    rows = [
        ("queries to the teacher, forget and retain", _captured(capture, _queries)),
        ("seconds of the capture, its last run", _captured(capture, lambda found: duration(found.provenance.seconds))),
        ("machine of the capture", _captured(capture, lambda found: found.provenance.hardware)),
        ("questions answered in the audit, all models", thousands(asked)),
        ("answers sampled for leak@k", thousands(sampled) if audit.leaks else "not measured"),
        ("tokens answered in the audit, samples apart", thousands(sum(each.tokens for each in audit.answers))),
        ("seconds of the audit", duration(audit.run.seconds)),
        ("machine of the audit", audit.run.hardware),
        ("steps of training", thousands(record.steps) if record else NOT_KNOWN),
        ("tokens trained on", trained),
        ("seconds of training", duration(record.seconds) if record else NOT_KNOWN),
        ("machine of training", f"{record.hardware}, processes: {record.processes}" if record else NOT_KNOWN),
        *((f"joules of {name}", NOT_KNOWN if value is None else thousands(value)) for name, value in joules.items()),
    ]
    blocks: list[Block] = [table("What was asked, trained and spent", ("what", "how much"), rows)]
    if parts := audit.run.seconds_of_parts:
        longest = sorted(parts.items(), key=lambda each: -each[1])
        blocks.append(
            table(
                "Seconds of each part of the audit",
                ("part", "seconds"),
                [(name, points(seconds)) for name, seconds in longest],
                folded=True,
            )
        )
    return Section("costs", "Costs", tuple(blocks))


def settings(audit: Audit, record: Training | None) -> Section:
    """Where it comes from, and every setting."""
    known = _flat(audit.run.settings)
    trained = _flat(record.settings) if record else known
    rows = [
        ("base model", audit.run.base),
        ("student", audit.run.student),
        ("control", audit.run.control or "none"),
        ("cache id", record.cache_id if record else f"{NOT_KNOWN}: {NO_RECORD}"),
        ("SHA-256 of the student's weights", audit.run.inputs.get("student", NOT_KNOWN)),
        ("hash of what base and teacher were asked", audit.run.inputs.get("base", NOT_KNOWN)),
        ("audit finished at", audit.run.finished_at),
        ("audit by duet", audit.run.duet_version),
        ("training started at", record.started_at if record else NOT_KNOWN),
        ("training by duet", record.duet_version if record else NOT_KNOWN),
    ]
    blocks: list[Block] = [table("Where it comes from", ("what", "which"), rows)]
    changed = [
        (key, _written(trained.get(key)), _written(known.get(key)))
        for key in dict.fromkeys([*trained, *known])
        if trained.get(key) != known.get(key) and not key.startswith("sweep.")
    ]
    if changed:
        blocks.append(
            table("Settings that differ", ("setting", "in training", "in the audit"), changed, missing="not set")
        )
    every = [(key, _written(value)) for key, value in known.items() if not key.startswith("sweep.")]
    blocks.append(table("Every setting of the audit", ("setting", "value"), every, missing="not set", folded=True))
    return Section("settings", "Settings", tuple(blocks))


def reproduce(audit: Audit, record: Training | None) -> Section:
    """The commands, and the settings as a file."""
    sections = {**audit.run.settings}
    if record:  # training had the say over what was trained
        sections |= {name: record.settings[name] for name in ("data", "teacher", "student") if name in record.settings}
    sections.pop("sweep", None)
    cache = record.cache if record and record.cache else "cache/again"
    probed = any((audit.leaks, audit.quantisation, audit.lens, audit.membership, audit.relearning, audit.instructions))
    command, out = ("audit", "audit.json") if probed else ("evaluate", "evaluation.json")
    control = f"--control {shlex.quote(audit.run.control)} " if audit.run.control else ""
    without = "".join(f"--without {part} " for part in audit.run.inputs.get("without", "").split())
    commands = [
        f"duet teacher-cache --config settings.toml --out {shlex.quote(cache)}",
        f"duet distill --config settings.toml --cache {shlex.quote(cache)} --out runs/again",
        f"duet {command} --config settings.toml --model runs/again/model {control}{without}--out runs/again/{out}",
        "duet report --run runs/again",
    ]
    blocks: list[Block] = [
        Prose("Keep the settings below as settings.toml, put the data files where they name them, and give:"),
        Code("Commands", "\n".join(commands)),
        Code("settings.toml", toml_text(sections), folded=True),
    ]
    if record:
        told = f"The cache is the same if its id is {record.cache_id}; duet cache show tells it."
        blocks.append(Prose(told, quiet=True))
    return Section("reproduce", "Reproduce it", tuple(blocks))


def left_out(audit: Audit, record: Training | None) -> Section:
    """Every part that was not measured, with its reason."""
    rows = list(not_measured(audit, record))
    block: Block = Prose("Every part of the audit was measured.")
    if rows:
        block = table("Parts that were not measured", ("part", "reason"), rows)
    return Section("not-measured", "Not measured", (block,))


def _captured(capture: Manifest | str, what: Callable[[Manifest], str]) -> str:
    return f"{NOT_KNOWN}: {capture}" if isinstance(capture, str) else what(capture)


def _queries(found: Manifest) -> str:
    return " + ".join(thousands(found.splits.get(split, 0)) for split in ("forget", "retain"))


def _some_steps(steps: Sequence[Step]) -> list[int]:
    """At most a dozen steps, evenly apart, the first and the last among them."""
    last = len(steps) - 1
    return sorted({steps[round(last * place / 11)].step for place in range(12)})


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


def _written(value: Any) -> str:
    """As it stands in a settings file; a dash where it is not set."""
    return (
        "–"
        if value is None
        else ", ".join(_lines(value))
        if isinstance(value, dict)
        else json.dumps(value, ensure_ascii=False)
    )


def _lines(table_: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table_.items()) if table_ else ("none",)
    )
