"""What the models say when asked plainly: scores, the first tokens of their answers, and answers to everyday requests."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import median

from stages.evaluation.fluency import perplexity
from stages.evaluation.intervals import share
from stages.evaluation.report import plots
from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.document import Block, Cell, Figure, Missing, Panel, Prose, Section
from stages.evaluation.report.parts import missing
from stages.evaluation.report.plots import Mark
from stages.evaluation.report.rows import Audit, FirstTokens, Instructed, Role, Score
from stages.evaluation.report.tables import NONE, Line, by_role, mark, remarks_of, roles_of, score, table
from stages.evaluation.report.words import (
    METRIC_NAMES,
    RECALL,
    interval,
    metric_name,
    points,
    token_text,
)

SHARE = (-3, 103)  # an axis of shares in points, with room for the markers at its ends
FIGURE_QUESTIONS = 4
ON_VALIDATION = "These are the validation files. Where settings were chosen on them, scores elsewhere are worse."


def scores(audit: Audit, answers: Answers) -> Section:
    """Recall per file and model; every other metric on demand."""
    rows = [(name(audit, file), _recall(audit, answers, file)) for file in audit.files]
    figure = Figure(
        "Recall of the reference answer",
        "ROUGE-L recall without any attack, in points. ↓ is to be forgotten, ↑ is to be kept. Lines are 95 % intervals.",
        (Panel(_in_words(rows), "", plots.rows_of_intervals("scores", rows, "recall, points", span=SHARE)),),
        table(
            "ROUGE-L recall in points (0–100) with 95 % bootstrap intervals over n questions, without attack",
            ("questions", "n", *audit.roles),
            [
                (
                    name(audit, file),
                    str(_count(audit, file)),
                    *by_role(_scores(audit, answers, file, RECALL), audit.roles),
                )
                for file in audit.files
            ],
        ),
        audit.roles,
    )
    blocks: list[Block] = []
    asked = audit.run.settings["evaluation"]
    if asked.get("questions") and asked["questions"] == asked.get("validation"):
        blocks.append(Prose(ON_VALIDATION))
    blocks.append(figure)
    if reason := missing(audit, "control"):
        blocks.append(Missing("Never-knew model (control)", reason))
    blocks.append(
        table(
            "Every metric without attack, in points unless named, with 95 % bootstrap intervals over n questions",
            ("questions", "metric", "n", *audit.roles),
            list(_every_metric(audit, answers)),
            folded=True,
        )
    )
    if reason := missing(audit, "perplexity"):
        blocks.append(Missing("Perplexity", reason))
    return Section("scores", "Scores", tuple(blocks))


def _every_metric(audit: Audit, answers: Answers) -> Iterator[list[Cell | str]]:
    known = [*METRIC_NAMES, *sorted({each.metric for each in audit.scores} - METRIC_NAMES.keys())]
    for file, metric in product(audit.files, known):
        found = _scores(audit, answers, file, metric)
        if found:
            n = str(next(iter(found.values())).n)
            yield [name(audit, file), metric_name(metric), n, *by_role(found, audit.roles)]


def first_tokens(audit: Audit) -> Section:
    """The paper's figure 1: the likeliest first tokens of a few answers, before and after."""
    reason = missing(audit, "first_tokens")
    if reason or not audit.first_tokens:
        return Section("first-tokens", "First tokens", (Missing("First tokens", reason or ""),))
    asked: dict[tuple[str, str], dict[Role, FirstTokens]] = {}
    for each in audit.first_tokens:
        asked.setdefault((each.file, each.question), {})[each.model] = each
    # What is to be forgotten first, then one that is to be kept, to compare.
    forgotten = [place for place in asked if place[0] in audit.forget_files]
    kept = [place for place in asked if place[0] not in audit.forget_files]
    shown = [*forgotten[: FIGURE_QUESTIONS - 1], *kept[:1]] or list(asked)[:FIGURE_QUESTIONS]
    panels = []
    for number, (file, question) in enumerate(shown):
        models = asked[file, question]
        pair: dict[Role, Sequence[tuple[str, float]]] = {
            role: [(each.token, each.probability) for each in models[role].tokens]
            for role in ("base", "student")
            if role in models
        }
        told = "; ".join(f"{role}: {', '.join(token_text(t) for t, _ in tokens[:3])}" for role, tokens in pair.items())
        title = f"{question} ({name(audit, file)}; answer: {next(iter(models.values())).reference})"
        panels.append(Panel(f"{title} {told}", title, plots.first_tokens(f"tokens{number}", pair)))
    figure = Figure(
        "The likeliest first tokens before and after",
        "Probability of the first token of the answer, in points. ␣ is a space. All models and all ten tokens are in the numbers.",
        tuple(panels),
        table(
            "The likeliest first tokens of each model's answer, probability in points",
            ("questions", "question", "model", "tokens"),
            [
                (
                    name(audit, file),
                    question,
                    role,
                    ", ".join(f"{token_text(t.token)} {points(100 * t.probability)}" for t in models[role].tokens),
                )
                for (file, question), models in asked.items()
                for role in audit.roles
                if role in models
            ],
            folded=True,
        ),
    )
    return Section("first-tokens", "First tokens", (figure,))


def instructions(audit: Audit) -> Section:
    """What is measured of the answers to everyday requests, by model."""
    title = "Everyday requests"
    if reason := missing(audit, "instructions"):
        return Section("instructions", title, (Missing(title, reason),))
    found = audit.instructions or ()
    rows = [_instructed([row for row in found if row.model == role]) for role in roles_of(found)]
    shown = table(
        "Answers to everyday requests that have no reference answer: shares in points with 95 % intervals over n requests; "
        "perplexity under the base, not in points",
        ("model", "n", "refused", "empty or repeating", "cut by the token limit", "median length, words", "perplexity"),
        rows,
        missing="every answer is empty",
    )
    return Section("instructions", title, (shown, *remarks_of(audit, "instructions")))


def _instructed(own: Sequence[Instructed]) -> Line:
    """One model's line. own: its answers."""
    requests = [row.request for row in own]
    kinds = ([row.refused for row in own], [row.degenerate for row in own], [row.cut for row in own])
    scored = [row.log_probability for row in own if row.log_probability is not None]
    fluency = perplexity(scored) if scored else None
    return (
        own[0].model,
        str(len(own)),
        *(score(share(hits, requests)) for hits in kinds),
        points(median(row.words for row in own)),
        Cell(points(fluency["mean"]), interval(fluency["low"], fluency["high"])) if fluency else NONE,
    )


def name(audit: Audit, file: str) -> str:
    """The file with an arrow: ↓ is to be forgotten, ↑ kept."""
    return f"{file} {'↓' if file in audit.forget_files else '↑'}"


def _recall(audit: Audit, answers: Answers, file: str) -> dict[Role, Mark]:
    return {role: mark(found) for role in audit.roles if (found := answers.score(role, file))}


def _scores(audit: Audit, answers: Answers, file: str, metric: str) -> dict[Role, Score]:
    return {role: found for role in audit.roles if (found := answers.score(role, file, metric=metric))}


def _count(audit: Audit, file: str) -> int:
    return next(each.n for each in audit.scores if each.file == file and each.attack is None)


def _in_words(rows: Sequence[tuple[str, Mapping[Role, Mark]]]) -> str:
    return "; ".join(
        f"{label}: {', '.join(f'{role} {points(each.mean)}' for role, each in marks.items())}" for label, marks in rows
    )
