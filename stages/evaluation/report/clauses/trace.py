"""No trace: membership inference."""

from stages.evaluation.report.findings import Finding
from stages.evaluation.report.rows import Audit
from stages.evaluation.report.words import interval, points

RULE = (
    "No trace. Membership inference: failed if the interval of the AUC lies above what is expected of a model that never saw "
    "the text, passed otherwise; not judged where membership was not measured."
)


def no_trace(audit: Audit) -> Finding:
    """Whether the student still tells what is to be forgotten from text that it should know as little."""
    probe, subject = "No trace", "no trace under membership inference"
    own = [row for row in audit.membership or () if row.model == "student" and _is_forget(audit, row.file)]
    if not own or all(row.low is None for row in own):
        return Finding(probe, subject, "not measured", "Membership inference was not measured.")
    told = [
        f"{row.score.replace('_', '-')} on {row.file} {points(row.auc)} {interval(row.low, row.high)}".rstrip()
        + f" against {points(row.expected)} expected"
        for row in own
    ]
    known = any(row.low is not None and row.low > row.expected for row in own)
    return Finding(probe, subject, "failed" if known else "passed", f"AUC in points: {'; '.join(told)}.")


def _is_forget(audit: Audit, file: str) -> bool:
    """Whether a file, a part of it in brackets aside ("forget (held-out half)"), is none of those that are to be kept."""
    return file.partition(" (")[0] not in audit.kept_files
