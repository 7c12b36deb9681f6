"""Names and figures as people read them, and text of models made harmless to read.

Nothing here knows HTML or Markdown: each of the two escapes what it is given.
"""

from collections.abc import Sequence

from stages.evaluation.report.rows import Role
from stages.visible import visible as made_visible

ROLE_NAMES: dict[Role, str] = {
    "base": "base",
    "teacher": "teacher",
    "student": "student",
    "control": "control",
}
ROLE_MEANINGS: dict[Role, str] = {
    "base": "the model before unlearning",
    "teacher": "the base model behind the unlearning prefix",
    "student": "the unlearned model that this report is about",
    "control": "a model that never learned what is to be forgotten",
}
METRIC_NAMES = {
    "rouge_l_recall": "ROUGE-L recall",
    "rouge_l_f1": "ROUGE-L F1",
    "exact_match": "exact match",
    "answer_in_full": "answer in full",
    "leak_rate": "answer leaked",
    "right_rate": "answer right",
    "refusal_rate": "refusals",
    "degenerate_rate": "degenerate answers",
    "perplexity": "perplexity under the base (not points)",
    "accuracy": "accuracy",
}
RECALL = "rouge_l_recall"
NO_VALUE = "–"
MINUS = "\u2212"


def visible(text: str) -> str:
    """The text with every character that a reader could not see, or that reorders others, named: ⟨U+202E⟩."""
    return made_visible(text, lambda character: f"⟨U+{ord(character):04X}⟩")


def token_text(token: str) -> str:
    """A token so that its spaces and line ends are seen; an empty one has a name."""
    return visible(token).replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") or "(nothing)"


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def attack_name(attack: str | None) -> str:
    return "no attack" if attack is None else attack.replace("_", " ")


def points(value: float | None, digits: int = 1) -> str:
    """A figure with a true minus."""
    return NO_VALUE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """A change: + or − always shown, but for what rounds to zero."""
    if value is None:
        return NO_VALUE
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def interval(low: float | None, high: float | None, *, change: bool = False, digits: int = 1) -> str:
    """[low, high]; nothing where there is none."""
    if low is None or high is None:
        return ""
    write = signed if change else points
    # With a space that does not break.
    return f"[{write(low, digits)},\u00a0{write(high, digits)}]"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def counted(count: int, one: str, many: str = "") -> str:
    """1 question, 2 questions, 12 345 questions."""
    return f"{thousands(count)} {one if count == 1 else many or one + 's'}"


def thousands(count: float) -> str:
    """A whole number in groups of three, with narrow spaces that do not break."""
    return f"{count:,.0f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Seconds, with minutes or hours beside them once they are easier to read."""
    if seconds < 120:
        return f"{points(seconds)} s"
    size, unit = (3600, "h") if seconds >= 7200 else (60, "min")
    return f"{thousands(seconds)} s ({points(seconds / size)} {unit})"


def clipped(text: str, most: int) -> str:
    """The text up to `most` characters; how many more there were is said."""
    return text if len(text) <= most else f"{text[:most]} … ({counted(len(text) - most, 'more character')})"
