"""Five kinds of picture: intervals in rows, curves, points, bars, first tokens. Figures in, SVG out; nothing is computed.

A model is told by its colour, its marker and its line, so that no colour has to be seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.evaluation.report.pictures import COLOUR, MARKERS, SIZES, TEXT_SIZE, panel, svg
from stages.evaluation.report.rows import Role
from stages.evaluation.report.words import points, token_text, visible

LINES: dict[str, Any] = {
    "base": (0, (5, 2)),
    "teacher": (0, (1, 1.6)),
    "student": "solid",
    "control": (0, (7, 2, 1, 2)),
}
ROW, DODGE = 19, 11
FRAME = 34  # height of a horizontal axis with its label
TOKENS_SHOWN = 8


@dataclass(frozen=True)
class Mark:
    """One figure with its interval, at x or on its row."""

    mean: float
    low: float | None
    high: float | None


Curve = Mapping[float, Mark]


def rows_of_intervals(
    name: str,
    rows: Sequence[tuple[str, Mapping[Role, Mark]]],
    unit: str,
    *,
    span: tuple[float, float] | None = None,
    expected: float | None = None,
) -> str:
    """One row per label, one marker with its interval per model. expected: a vertical line to compare with."""
    deepest = max(len(marks) for _, marks in rows)
    height = ROW + DODGE * (deepest - 1)
    with panel(round(FRAME + 8 + height * len(rows))) as axis:
        for place, (_, marks) in enumerate(rows):
            for step, (role, mark) in enumerate(marks.items()):
                y = place + (step - (len(marks) - 1) / 2) * DODGE / height
                if mark.low is not None and mark.high is not None:
                    axis.plot([mark.low, mark.high], [y, y], color=COLOUR[role], linewidth=1.6, solid_capstyle="butt")
                axis.plot(mark.mean, y, **_marker(role))
        for place in range(1, len(rows)):
            axis.axhline(place - 0.5, color=COLOUR["line"], linewidth=0.8)
        if expected is not None:
            axis.axvline(expected, color=COLOUR["soft"], linewidth=1, zorder=1)
        axis.set(yticks=range(len(rows)), yticklabels=[visible(label) for label, _ in rows], xlabel=unit)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        if span:
            axis.set_xlim(*span)
        axis.tick_params(axis="y", labelcolor=COLOUR["ink"])
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        _few_ticks(axis.xaxis)
        return svg(axis, name)


def curves(
    name: str, lines: Mapping[Role, Curve], across: str, up: str, *, doubling: bool = False, from_zero: bool = True
) -> str:
    """One curve per model with its interval as a band. doubling: 1, 2, 4, … stand equally far apart."""
    with panel(210) as axis:
        for role, curve in lines.items():
            xs = sorted(curve)
            axis.plot(xs, [curve[x].mean for x in xs], color=COLOUR[role], linestyle=LINES[role])
            if len(xs) <= 12:
                axis.plot(xs, [curve[x].mean for x in xs], linestyle="none", **_marker(role))
            banded = [x for x in xs if curve[x].low is not None]
            lows, highs = [curve[x].low for x in banded], [curve[x].high for x in banded]
            axis.fill_between(banded, lows, highs, color=COLOUR[role], alpha=0.14, linewidth=0)
        if doubling:
            steps = sorted({x for curve in lines.values() for x in curve})
            axis.set_xscale("log", base=2)
            axis.set_xticks(steps, [f"{step:g}" for step in steps])
            axis.minorticks_off()
        else:
            _few_ticks(axis.xaxis, whole=True)
        _few_ticks(axis.yaxis)
        if from_zero:
            axis.set_ylim(bottom=0)
        axis.set(xlabel=across, ylabel=up)
        axis.grid(axis="x", visible=False)
        return svg(axis, name)


def cloud(name: str, dots: Sequence[tuple[str, Role, Mark, Mark]], across: str, up: str) -> str:
    """One point per model, named or not, with its interval both ways: label, role, x, y."""
    with panel(270) as axis:
        for label, role, x, y in dots:
            if x.low is not None:
                axis.plot([x.low, x.high], [y.mean, y.mean], color=COLOUR[role], linewidth=1, alpha=0.55)
            if y.low is not None:
                axis.plot([x.mean, x.mean], [y.low, y.high], color=COLOUR[role], linewidth=1, alpha=0.55)
            axis.plot(x.mean, y.mean, **_marker(role))
            beside = {"xytext": (6, 5), "textcoords": "offset points", "color": COLOUR["ink"]}
            axis.annotate(visible(label), (x.mean, y.mean), **beside)
        axis.set(xlabel=across, ylabel=up)
        axis.margins(0.12)
        _few_ticks(axis.xaxis)
        _few_ticks(axis.yaxis)
        return svg(axis, name)


def bars(name: str, values: Sequence[tuple[str, float]], across: str, up: str) -> str:
    """One bar per label, from left to right; of many labels, some are written."""
    with panel(190) as axis:
        axis.bar(range(len(values)), [value for _, value in values], color=COLOUR["student"], width=0.72)
        every = 1 if len(values) <= 8 else 5
        # What has a name rather than a number stands at an end; beside it no number fits.
        shown = [place for place, (label, _) in enumerate(values) if label.isdigit() and int(label) % every == 0]
        shown = shown or list(range(0, len(values), every))
        axis.set_xticks(shown, [visible(values[place][0]) for place in shown])
        axis.set(xlabel=across, ylabel=up)
        axis.grid(axis="x", visible=False)
        _few_ticks(axis.yaxis)
        return svg(axis, name)


def first_tokens(name: str, models: Mapping[Role, Sequence[tuple[str, float]]]) -> str:
    """The likeliest first tokens of each model side by side, as bars of their probability (0–1), in points."""
    shown = min(TOKENS_SHOWN, max(len(tokens) for tokens in models.values()))
    with panel(30 + 17 * shown, columns=len(models)) as found:
        axes = [found] if len(models) == 1 else list(found)
        for axis, (role, tokens) in zip(axes, models.items(), strict=True):
            for place, (_, probability) in enumerate(tokens[:shown]):
                axis.barh(place, 100 * probability, color=COLOUR[role], height=0.62)
                axis.text(100 * probability + 4, place, points(100 * probability, 0), va="center", color=COLOUR["soft"])
            labels = [_short(token_text(token)) for token, _ in tokens[:shown]]
            axis.set(yticks=range(len(labels)), yticklabels=labels, xticks=[], xlim=(0, 120))
            axis.set_ylim(shown - 0.5, -0.5)
            axis.set_title(role, fontsize=TEXT_SIZE, color=COLOUR["soft"], loc="left")
            axis.tick_params(axis="y", labelcolor=COLOUR["ink"])
            axis.grid(visible=False)
            axis.spines[["left", "bottom"]].set_visible(False)
        return svg(axes[0], name)


def _marker(role: Role) -> dict[str, Any]:
    # The control is hollow, so that it is told from the student in grey, too.
    return {
        "color": COLOUR[role],
        "marker": MARKERS[role],
        "markersize": SIZES[role],
        "markerfacecolor": COLOUR["paper"] if role == "control" else COLOUR[role],
        "markeredgecolor": COLOUR[role],
        "markeredgewidth": 1.6 if role == "control" else 0.8,
    }


def _few_ticks(axis: Any, *, whole: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5, integer=whole))


def _short(token: str) -> str:
    return token if len(token) <= 9 else f"{token[:8]}…"
