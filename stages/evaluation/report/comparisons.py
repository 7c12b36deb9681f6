"""Two sets of answers to the same questions in, the difference with its interval out, paired by question."""

from stages.evaluation.metrics import Interval, mean_with_interval
from stages.evaluation.report.rows import Answer, Audit, Role, Score
from stages.evaluation.report.words import RECALL
from stages.evaluation.scores import PARAPHRASE

POINTS = 100.0


class Answers:
    """The answers of an audit by model, file and attack, and what was scored on them."""

    def __init__(self, audit: Audit) -> None:
        self._answers: dict[tuple[Role, str, str | None], dict[str, Answer]] = {}
        paraphrases = audit.run.settings["evaluation"].get("paraphrases", {})
        for answer in audit.answers:
            self._answers.setdefault((answer.model, answer.file, answer.attack), {})[answer.question] = answer
            if answer.attack is None and (original := paraphrases.get(answer.file)):
                self._answers.setdefault((answer.model, original, PARAPHRASE), {})[answer.question] = answer
        self._scores = {(s.model, s.file, s.attack, s.metric): s for s in audit.scores}

    def of(self, model: Role, file: str, attack: str | None = None) -> dict[str, Answer]:
        """Answers by question; a file asks none twice."""
        return self._answers.get((model, file, attack), {})

    def score(self, model: Role, file: str, attack: str | None = None, metric: str = RECALL) -> Score | None:
        return self._scores.get((model, file, attack, metric))

    def change_by(self, score: Score) -> Interval | None:
        """What an attack adds to the recall of the same questions without it; older files do not hold it."""
        if score.delta is not None:
            return Interval(score.delta, score.delta_low, score.delta_high, score.n)
        with_attack, without = self.of(score.model, score.file, score.attack), self.of(score.model, score.file)
        return _paired(with_attack, without, "rouge_l_recall")


def _paired(one: dict[str, Answer], other: dict[str, Answer], column: str) -> Interval | None:
    shared = [question for question in one if question in other]
    differences = [
        POINTS * (float(getattr(one[question], column)) - float(getattr(other[question], column)))
        for question in shared
    ]
    return mean_with_interval(differences) if differences else None
