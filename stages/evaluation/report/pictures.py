"""Figures of matplotlib in, SVG for the page out: no style attribute, no colour of its own, no font, no shared id.

The page's policy refuses inline styles, and colours must follow the reader's light or dark scheme. So every colour drawn here
stands for a class (`f-ink` fills, `s-ink` strokes) that the page's style sheet gives a value, and text stays text.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from stages.evaluation.report.words import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What matplotlib draws with → the class that it becomes.
COLOURS = {
    "#000001": "ink",
    "#000002": "soft",
    "#000003": "line",
    "#000004": "paper",
    "#000011": "base",
    "#000012": "teacher",
    "#000013": "student",
    "#000014": "control",
}
COLOUR = {name: colour for colour, name in COLOURS.items()}
MARKERS = {"base": "s", "teacher": "D", "student": "o", "control": "^"}
SIZES = {"base": 5.0, "teacher": 4.6, "student": 6.2, "control": 6.0}
# SVG units. A panel is as wide as a phone's text, so that its letters are as large there as anywhere.
WIDTH = 352
TEXT_SIZE = 11
UNITS_PER_INCH = 72
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "duet",
    "text.parse_math": False,
    "font.size": TEXT_SIZE,
    "font.family": "DejaVu Sans",
    "text.color": COLOUR["ink"],
    "axes.edgecolor": COLOUR["soft"],
    "axes.labelcolor": COLOUR["soft"],
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": COLOUR["line"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOUR["soft"],
    "ytick.color": COLOUR["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "errorbar.capsize": 0,
}
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
PRESENTATION = {
    "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "fill-opacity",
    "stroke-opacity", "opacity", "text-anchor", "font-weight",
}  # fmt: skip


@contextmanager
def panel(height: int, *, columns: int = 1) -> Iterator[Any]:
    """One empty axis, or several beside each other, WIDTH × height units, drawn on inside the `with`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        # A model may say what this font cannot; the reader's fonts are others.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(WIDTH / UNITS_PER_INCH, height / UNITS_PER_INCH), layout="constrained")
        edges: Any = figure.get_layout_engine()
        edges.set(w_pad=0.02, h_pad=0.02, wspace=0.04)
        yield figure.subplots(1, columns)


def svg(axis: "Axes", name: str) -> str:
    """The drawing of this axis as SVG for the page. name: unlike any other on the page; its ids begin with it."""
    figure: Any = axis.figure
    return _for_the_page(_drawn(figure), name)


def _drawn(figure: "Figure") -> str:
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return written.getvalue()


def _for_the_page(drawn: str, name: str) -> str:
    root = ElementTree.fromstring(drawn)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (SVG + "metadata", SVG + "style"):
                parent.remove(child)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', drawn))
    for element in root.iter():
        _restyle(element)
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in list(element.attrib.items()):
            if key == XLINK + "href":
                del element.attrib[key]
                element.set("href", f"#{name}-{value[1:]}")
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif key == "clip-path":
                element.set(key, value.replace("url(#", f"url(#{name}-"))
            elif key == "transform" and value.startswith("rotate(-0 "):
                del element.attrib[key]
            elif key in ("d", "x", "y", "width", "height", "transform"):
                element.set(key, _shorter(value))
        if element.text:
            element.text = visible(element.text) if element.tag == SVG + "text" else None
        element.tail = None
    root.attrib = {"viewBox": root.attrib["viewBox"], "stroke-linejoin": "round", "class": "plot"}
    ElementTree.register_namespace("", SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{SVG[1:-1]}"', "")


def _restyle(element: ElementTree.Element) -> None:
    """Turn an element's style into attributes and classes."""
    declared = dict(part.split(": ", 1) for part in element.attrib.pop("style", "").split("; ") if part)
    classes = []
    for key, value in declared.items():
        if key in ("fill", "stroke"):
            if value == "none":
                element.set(key, value)
            else:
                classes.append(f"{key[0]}-{COLOURS[value]}")
        elif key == "font-size":
            element.set(key, value.removesuffix("px"))
        elif key in PRESENTATION:
            element.set(key, value)
    if element.tag == SVG + "text" and not any(each.startswith("f-") for each in classes):
        classes.append("f-ink")
    if classes:
        element.set("class", " ".join(classes))


def _shorter(numbers: str) -> str:
    """The same with two decimals, on one line."""
    short = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers)
    return " ".join(short.split())
