"""Evaluations that differ in their seed alone in, their means as Markdown out: what a stranger may rely on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.tables import ScoreTable, roles_of, score_tables
from stages.markdown_text import escaped


def seed_tables(evaluations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every table of the evaluations as a mean over seeds with the least and the most, then the verdicts."""
    forget = evaluations[0]["run"]["settings"]["evaluation"]["forget_files"]
    if len(evaluations) > 1:
        yield f"Means over {len(evaluations)} seeds; where runs differ, the least and the most stand in brackets."
        yield "Behind Δ stands in how many of them its 95 % interval lies above 0, if in any."
        yield ""
    tables: dict[str, list[ScoreTable]] = {}
    for evaluation in evaluations:
        for table in score_tables(evaluation, forget):
            tables.setdefault(table.title, []).append(table)
    roles = roles_of(evaluations[0])
    for same in tables.values():
        yield from replace(same[0], scores=_means(same)).markdown(roles)
    yield from _weight_lines(evaluations)
    yield from _verdict_lines(evaluations)
    yield from _second_lines(evaluations)
    yield from _unmeasured_lines(evaluations)
    yield made_with(evaluations)


def _means(tables: Sequence[ScoreTable]) -> list[Mapping[str, Any]]:
    """One score per row and model: the mean over the tables; its interval stays where there is one table only."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for table in tables:
        for score in table.scores:
            found.setdefault((*table.place(score), score["model"]), []).append(score)
    means: list[Mapping[str, Any]] = []
    for scores in found.values():
        values = [score["mean"] for score in scores]
        one: dict[str, Any] = {**scores[0], "mean": sum(values) / len(values)}
        if len(tables) > 1:
            one |= {"low": None, "high": None, "delta_low": None, "delta_high": None}
            if min(values) != max(values):
                one |= {"least": min(values), "most": max(values)}
            if scores[0].get("delta") is not None:
                one["delta"] = sum(score["delta"] for score in scores) / len(scores)
                one["rises"] = sum((score.get("delta_low") or 0) > 0 for score in scores), len(scores)
        means.append(one)
    return means


def _weight_lines(evaluations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How far each layer's weights were moved, as a mean over seeds."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for evaluation in evaluations:
        for row in evaluation.get("weight_change") or ():
            rows.setdefault(row["layer"], []).append(row)
    if not rows:
        return
    yield "How far training has moved the weights of each layer."
    yield ""
    yield "| layer | norm of the change | in % of the weights' own |"
    yield "|---|---:|---:|"
    for layer, each in rows.items():
        norm = sum(row["norm"] for row in each) / len(each)
        shares = [row["relative"] for row in each]
        share = "–" if None in shares else f"{100 * sum(shares) / len(shares):.3f}"
        yield f"| {escaped(layer)} | {norm:.3f} | {share} |"
    yield ""


def _second_lines(evaluations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What each part of the first evaluation cost; later ones may have taken parts over."""
    seconds = evaluations[0]["run"].get("seconds_of_parts") or {}
    if not seconds:
        return
    yield f"Seconds of each part of the first of them; {evaluations[0]['run']['seconds']:.0f} in all, with the starts of engines."
    yield ""
    yield "| part | seconds |"
    yield "|---|---:|"
    yield from (f"| {escaped(part)} | {spent:.0f} |" for part, spent in seconds.items() if part != "questions")
    yield ""


def _verdict_lines(evaluations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every clause of the verdict, run by run, and what each run's verdict says."""
    from stages.evaluation.report.rows import Audit
    from stages.evaluation.report.verdict import judge

    seeds = [evaluation["run"]["settings"]["student"]["seed"] for evaluation in evaluations]
    verdicts = [judge(Audit.model_validate(evaluation)) for evaluation in evaluations]
    outcomes = [{clause.probe: clause.outcome for clause in verdict.clauses} for verdict in verdicts]
    yield "| clause of the verdict | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"
    yield "|---|" + "---|" * len(seeds)
    for clause in outcomes[0]:
        yield f"| {escaped(clause)} | " + " | ".join(each.get(clause, "–") for each in outcomes) + " |"
    yield ""
    for seed, verdict in zip(seeds, verdicts, strict=True):
        yield f"- Seed {seed}: {escaped(verdict.headline)}"
    yield ""


def _unmeasured_lines(evaluations: Sequence[dict[str, Any]]) -> Iterator[str]:
    reasons = {part: reason for each in evaluations for part, reason in each.get("not_measured", {}).items()}
    for part, reason in reasons.items():
        yield f"Not measured: {escaped(part)} ({escaped(reason)})."
        yield ""


def made_with(evaluations: Sequence[dict[str, Any]]) -> str:
    """Model, seeds, machine and day."""
    runs = [evaluation["run"] for evaluation in evaluations]
    seeds = sorted({run["settings"]["student"]["seed"] for run in runs})
    machines = sorted({run["hardware"] for run in runs})
    days = sorted({run["finished_at"][:10] for run in runs})
    return (
        f"Points (0–100). Model {escaped(runs[0]['base'])}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}, "
        f"{escaped('; '.join(machines))}, {escaped(', '.join(days))}."
    )
