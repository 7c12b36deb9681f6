"""Everything that was read in, the whole document out: the verdict first, then section by section."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from stages.evaluation.report.comparisons import Answers
from stages.evaluation.report.document import Document
from stages.evaluation.report.rows import Audit, Step, Training
from stages.evaluation.report.sections import answers, asked, changed, inside, made, said, summed
from stages.evaluation.report.verdict import RULES, judge
from stages.logit_cache.manifest import Manifest


def build(
    audit: Audit,
    training: Training | None = None,
    steps: Sequence[Step] = (),
    capture: Manifest | str = "it was not looked for",
    *,
    run: str = "student",
    others: Mapping[str, Audit] | None = None,
    examples: int = 6,
) -> Document:
    """The report on one audit.

    capture: the manifest of the cache that was trained on, or why it is not known.
    run, others: names of this run and of further ones, which are points beside it in the picture of forgetting against
    retention. examples: questions shown per file and attack.
    """
    heard = Answers(audit)
    facts = (
        ("base model", audit.run.base),
        ("unlearned model", audit.run.student),
        ("to be forgotten", ", ".join(map(str, audit.run.settings.get("data", {}).get("forget", ()))) or "not known"),
        ("audited", f"{audit.run.finished_at[:10]}, duet {audit.run.duet_version}, {audit.run.hardware}"),
    )
    return Document(
        title=f"{PurePath(audit.run.base).name}, unlearned",
        facts=facts,
        verdict=judge(audit),
        rules=RULES,
        sections=(
            said.scores(audit, heard),
            said.first_tokens(audit),
            summed.trade(audit, heard, others or {}, run),
            asked.attacks(audit, heard),
            asked.sampling(audit),
            changed.relearning(audit),
            changed.quantisation(audit),
            inside.layers(audit),
            inside.membership(audit),
            said.instructions(audit),
            summed.choices(audit),
            summed.shift(audit),
            answers.answers(audit, heard, examples),
            made.training(training, steps),
            made.costs(audit, training, steps, capture),
            made.settings(audit, training),
            made.reproduce(audit, training),
            made.left_out(audit, training),
        ),
    )
