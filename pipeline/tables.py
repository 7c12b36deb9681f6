"""An evaluation in, the tables that people read out: on the terminal, and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.console import print_table, write
from stages.evaluation.report.words import METRIC_NAMES
from stages.markdown_text import escaped

ROLES = {
    "base": "base",
    "teacher": "base + prefix (teacher)",
    "student": "DUET (student)",
    "control": "never knew (control)",
}
SCORES = "Scores in points (0–100); in brackets the 95 % bootstrap interval over questions, over seeds the least and the most"
ATTACKED = (
    "Attacks, ROUGE-L recall in points ↓. "
    "Δ is the change against the same questions without the attack, paired; of one run with its 95 % interval."
)
BROKEN = (
    "Degenerate answers under attack, points: what is not given away because the answer is broken is not forgotten ↓"
)
SUPPLIED = (
    "Attacks that supply the answer among others, ROUGE-L recall in points ↓. "
    "A hit is recognition, and a guess may hit, too."
)
LEAKS = "leak@k ↓: points of questions whose answer leaks in any of k sampled answers"
CHOICES = "Multiple choice by likelihood of the options, points answered rightly ↑"
QUANTISED = (
    "After quantisation of the weights, ROUGE-L recall in points. "
    "Δ is the change against the same questions without it, paired; of one run with its 95 % interval."
)
MEMBERSHIP = (
    "Membership inference, AUC in points: 50 tells nothing; the control's figure, where there is one, is what to expect"
)
LENS = (
    "Logit lens: points of probability for the answer's first token after each layer, from the embeddings (0) on ↓; "
    "without the layers where no model reaches 0.5"
)
# Most layers show nothing, and would be most of the table.
LENS_SHOWN = 0.5
RELEARNT = (
    "Relearning, ROUGE-L recall in points on the held-out half ↓. "
    "Δ is the change since step 0, paired; of one run with its 95 % interval."
)
Scores = Mapping[str, Any]


@dataclass(frozen=True)
class ScoreTable:
    """Leading columns by the key of a score, then one column per model. Rows are those of the scores, in their order."""

    title: str
    columns: Mapping[str, str]
    scores: Sequence[Scores]
    with_delta: bool = False

    def rows(self, roles: Sequence[str]) -> Iterator[list[str]]:
        """The leading cells, n, and a cell per role."""
        found = {(*self.place(score), score["model"]): score for score in self.scores}
        for place in dict.fromkeys(map(self.place, self.scores)):
            cells = [found.get((*place, role)) for role in roles]
            n = next(cell["n"] for cell in cells if cell)
            yield [*place, str(n), *(cell_text(cell, with_delta=self.with_delta) for cell in cells)]

    def place(self, score: Scores) -> tuple[str, ...]:
        """The leading cells of the score's row, without n."""
        return tuple(str(score[key]) for key in self.columns)

    def markdown(self, roles: Sequence[str]) -> list[str]:
        """Its lines, title first."""
        heads = [*self.columns.values(), "n", *(ROLES[role] for role in roles)]
        rule = "|" + "---|" * len(self.columns) + "---:|" * (1 + len(roles))
        rows = [f"| {' | '.join(map(escaped, row))} |" for row in self.rows(roles)]
        return [f"{self.title.removesuffix('.')}.", "", f"| {' | '.join(heads)} |", rule, *rows, ""]


def score_tables(evaluation: Mapping[str, Any], forget_files: Sequence[str]) -> Iterator[ScoreTable]:
    """Every table that the evaluation has scores for."""
    recall = [score for score in evaluation["scores"] if score["metric"] == "rouge_l_recall"]
    attacked = [score for score in recall if score["attack"]]
    by_attack = {"file": "questions", "attack": "attack"}

    def kept(key: str) -> list[Scores]:
        return [
            score for score in evaluation.get(key) or () if score.get("metric") in (None, "rouge_l_recall", "accuracy")
        ]

    plain = [score for score in evaluation["scores"] if not score["attack"] and score["metric"] in METRIC_NAMES]
    order = list(METRIC_NAMES)
    plain.sort(key=lambda score: order.index(score["metric"]))
    files = list(dict.fromkeys(score["file"] for score in evaluation["scores"]))
    plain.sort(key=lambda score: files.index(score["file"]))
    named = [{**score, "metric": _title(score["metric"], score["file"] in forget_files)} for score in plain]
    tables = (
        ScoreTable(SCORES, {"file": "questions", "metric": "metric"}, named),
        ScoreTable(ATTACKED, by_attack, [s for s in attacked if not s.get("supplies_answer")], with_delta=True),
        ScoreTable(
            BROKEN, by_attack, [s for s in evaluation["scores"] if s["attack"] and s["metric"] == "degenerate_rate"]
        ),
        ScoreTable(SUPPLIED, by_attack, [s for s in attacked if s.get("supplies_answer")], with_delta=True),
        ScoreTable(LEAKS, {"file": "questions", "k": "k"}, kept("leaks")),
        ScoreTable(CHOICES, {"file": "questions"}, kept("choices")),
        ScoreTable(QUANTISED, {"file": "questions", "weights": "weights"}, kept("quantisation"), with_delta=True),
        ScoreTable(
            MEMBERSHIP,
            {"file": "questions", "score": "score", "compared_with": "against"},
            [{**score, "mean": score["auc"]} for score in evaluation.get("membership") or ()],
        ),
        ScoreTable(
            LENS,
            {"file": "questions", "layer": "layer"},
            _telling_layers([score for score in evaluation.get("lens") or () if score["file"] in forget_files[:1]]),
        ),
        ScoreTable(
            RELEARNT,
            {"file": "questions", "trained_on": "trained on", "step": "step"},
            kept("relearning"),
            with_delta=True,
        ),
    )
    return (table for table in tables if table.scores)


def print_scores(evaluation: dict[str, Any], forget_files: Sequence[str]) -> None:
    """All tables on stdout, what was not measured, and Performance Shift."""
    roles = roles_of(evaluation)
    for each in score_tables(evaluation, forget_files):
        heads = [*each.columns.values(), "n", *(ROLES[role] for role in roles)]
        print_table(each.title, heads, list(each.rows(roles)), left=len(each.columns), grouped=True)
    for name, reason in evaluation.get("not_measured", {}).items():
        write(f"Not measured: {name} ({reason})")
    for line in _shift_lines(evaluation["performance_shift"]):
        write(line)


def markdown_scores(evaluation: dict[str, Any], forget_files: Sequence[str]) -> str:
    """The same as Markdown."""
    roles = roles_of(evaluation)
    lines: list[str] = []
    for each in score_tables(evaluation, forget_files):
        lines += each.markdown(roles)
    for name, reason in evaluation.get("not_measured", {}).items():
        lines += [f"Not measured: {escaped(name)} ({escaped(reason)}).", ""]
    return "\n".join(lines)


def roles_of(evaluation: Mapping[str, Any]) -> list[str]:
    """The models that have scores, in the order of all tables."""
    there = {score["model"] for score in evaluation["scores"]}
    return [role for role in ROLES if role in there]


def _telling_layers(scores: list[Scores]) -> list[Scores]:
    shown = {score["layer"] for score in scores if score["mean"] >= LENS_SHOWN}
    return [score for score in scores if score["layer"] in shown]


def _title(metric: str, to_forget: bool) -> str:
    wanted = "↓" if to_forget else "↑"
    arrows = {"refusal_rate": "↑" if to_forget else "↓", "degenerate_rate": "↓", "perplexity": "↓"}
    return f"{METRIC_NAMES[metric]} {arrows.get(metric, wanted)}"


def _shift_lines(shift: Mapping[str, Any]) -> Iterator[str]:
    parts = ", ".join(f"{name} {_points(value)}" for name, value in shift["parts"].items())
    yield f"Performance Shift: {_points(shift['value'])}  ({parts})"
    if shift["not_measured"]:
        missing = ", ".join(shift["not_measured"])
        yield f"  not measured: {missing}; the sum of the others is {_points(shift['sum_of_measured'])}"
    for name, stand_in in shift.get("stand_ins", {}).items():
        part = _points(stand_in["part"])
        yield f"  {name} {part} stands where {stand_in['stands_for']} would; it is in no sum"


def cell_text(score: Scores | None, *, with_delta: bool = False) -> str:
    """Mean with its interval; over seeds, where a score has `least` and `most`, these instead.

    A change over seeds is followed by in how many of them its interval lies above zero, if in any.
    """
    if score is None:
        return "–"
    text = f"{score['mean']:.1f}"
    if score.get("least") is not None:
        text += f" ({score['least']:.1f} – {score['most']:.1f})"
    elif score["low"] is not None:
        # A perplexity near 1 says nothing without its decimals.
        digits = 1 if str(score.get("metric")).startswith("perplexity") else 0
        text += f" [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"
    if not with_delta or score.get("delta") is None:
        return text
    bounds = "" if score.get("delta_low") is None else f" [{score['delta_low']:+.0f}, {score['delta_high']:+.0f}]"
    if score.get("rises", (0,))[0]:
        bounds = " (above 0 in {} of {})".format(*score["rises"])
    return f"{text}, Δ {score['delta']:+.1f}{bounds}"


def _points(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.1f}"
