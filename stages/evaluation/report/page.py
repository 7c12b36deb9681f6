"""A document in, one HTML file out that needs nothing else: no network, no font, no image, no script from elsewhere.

Everything that a model or a file said is escaped, and stands in text or in attributes only. The page's own policy forbids all
that it does not hold: style and script run by their hash, and no inline style or handler would.
"""

import base64
import hashlib
from importlib import resources
from itertools import count
from typing import TYPE_CHECKING, Any

from stages.evaluation.report.document import Document
from stages.evaluation.report.words import ROLE_MEANINGS, visible

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report.html.jinja"


def html(document: Document, *, generator: str) -> str:
    """The page. generator: who writes it, with its version. The same document always gives the same page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    style, script = (_own(name) for name in ("report.css", "report.js"))
    environment = Environment(
        loader=PackageLoader("stages.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        keep_trailing_newline=True,
    )
    environment.filters["drawn"] = _drawn
    numbers = count(1)
    return environment.get_template(TEMPLATE).render(
        document=document,
        meanings=ROLE_MEANINGS.items(),
        generator=generator,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
        kind_of=lambda block: type(block).__name__,
        next_id=lambda kind: f"{kind}-{next(numbers)}",
    )


def _own(name: str) -> str:
    return (resources.files("stages.evaluation.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _seen(value: Any) -> Any:
    """Text from outside with its unseen characters named; markup of our own as it is."""
    return visible(value) if type(value) is str else value


def _drawn(svg: str) -> "Markup":
    """What follows `<svg role=… aria-label=…` of a picture: its own attributes and content. Only `pictures` makes such."""
    from markupsafe import Markup

    return Markup(svg.removeprefix("<svg"))
