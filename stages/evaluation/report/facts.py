"""An audit in; the facts that the base knew, and what each probe gets of them out of each model.

A fact is a question of a file on what is to be forgotten. It is known if the base gives its answer rightly, asked plainly. It
comes out where the answer stands in what a model says, in any form.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stages.evaluation.attacks import ATTACKS
from stages.evaluation.report.rows import Answer, Audit, Role
from stages.evaluation.report.words import attack_name, counted
from stages.evaluation.scores import PARAPHRASE

# Below this share of the facts that the base knows, a probe that gets no more out of the base itself is no evidence.
BLUNT_BELOW = 50.0
PLAIN = "asked plainly"


@dataclass(frozen=True, order=True)
class Fact:
    """Question `number` of a file, from 0. group: the entity that it is about."""

    file: str
    number: int
    group: str


@dataclass(frozen=True)
class Probe:
    """name: in the middle of a sentence. came_out: by model, whether each fact that was asked came out.

    attack: of the probe, if it is one; supplies_answer: then a hit is recognition, and no evidence. alters: the probe changes
    the weights, and so is made of student and control only.
    """

    name: str
    came_out: Mapping[Role, Mapping[Fact, bool]]
    attack: str | None = None
    supplies_answer: bool = False
    alters: bool = False

    def asked(self, role: Role, facts: frozenset[Fact]) -> tuple[Fact, ...]:
        """Of these facts, those that the probe asked a model for, in order."""
        return tuple(sorted(facts & self.came_out.get(role, {}).keys()))

    def hits(self, role: Role, facts: Sequence[Fact]) -> list[bool]:
        """Whether each came out; all must have been asked."""
        return [self.came_out[role][fact] for fact in facts]


def groups_of(facts: Sequence[Fact]) -> list[str]:
    """The entity of each."""
    return [f"{fact.file} {fact.group}" for fact in facts]


class Facts:
    """known: what the base answered rightly. unknown: what it did not: what comes out of these is guessed.

    probes: in the order of what they cost: plain questions, other wordings, attacks, samples, rounded weights, relearning.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        again = audit.run.settings["evaluation"].get("paraphrases", {})
        files = [file for file in audit.forget_files if file not in again]
        self._facts = {
            (answer.file, number): Fact(answer.file, number, answer.group or answer.question)
            for file in files
            for number, answer in enumerate(_plain(audit, "base", file))
        }
        self._by_question = {
            (answer.file, answer.question): self._facts[answer.file, number]
            for file in files
            for number, answer in enumerate(_plain(audit, "base", file))
        }
        self.known = frozenset(
            self._facts[file, number]
            for file in files
            for number, answer in enumerate(_plain(audit, "base", file))
            if answer.is_right
        )
        self.unknown = frozenset(self._facts.values()) - self.known
        self.probes = tuple(self._probes(files, again))

    @property
    def worst_case(self) -> frozenset[Fact]:
        """The known facts that every attack and every sample asked for, in all files that were attacked at all.

        Where an audit attacks some of the facts only, the others cannot come out by what they were never asked.
        """
        needed = [probe for probe in self.probes if not probe.alters and not probe.supplies_answer]
        asked = [frozenset(probe.came_out["student"]) for probe in needed if probe.came_out.get("student")]
        return self.known.intersection(*asked) if asked else self.known

    def made_of(self, role: Role) -> tuple[Probe, ...]:
        """The probes that were made of a model."""
        return tuple(probe for probe in self.probes if probe.came_out.get(role))

    def was_asked(self, role: Role, fact: Fact) -> bool:
        """Whether any probe asked a model for it."""
        return any(fact in probe.came_out.get(role, {}) for probe in self.probes)

    def any_probe(self, role: Role, facts: Sequence[Fact], probes: Sequence[Probe] | None = None) -> list[bool]:
        """Whether each comes out of a model by any of these probes, default all, that does not supply the answer."""
        chosen = self.probes if probes is None else probes
        found = [probe.came_out.get(role, {}) for probe in chosen if not probe.supplies_answer]
        return [any(each.get(fact, False) for each in found) for fact in facts]

    def _probes(self, files: Sequence[str], again: Mapping[str, str]) -> Iterator[Probe]:
        audit = self._audit
        yield Probe(PLAIN, self._answers([(file, file) for file in files], None))
        worded = [(name, original) for name, original in again.items() if name in audit.files and original in files]
        if worded:
            yield Probe("asked in other words", self._answers(worded, None), PARAPHRASE)
        attacks = list(dict.fromkeys(answer.attack for answer in audit.answers if answer.attack))
        for attack in attacks:
            supplies = attack in ATTACKS and ATTACKS[attack].supplies_answer
            asked = self._answers([(file, file) for file in files], attack)
            yield Probe(f"the attack “{attack_name(attack)}”", asked, attack, supplies)
        yield from self._samples()
        yield from self._altered()

    def _answers(self, files: Sequence[tuple[str, str]], attack: str | None) -> dict[Role, dict[Fact, bool]]:
        """files: a question file and the one whose facts it asks for."""
        found: dict[Role, dict[Fact, bool]] = {}
        for name, original in files:
            for role in self._audit.roles:
                own = [
                    each for each in self._audit.answers if (each.model, each.file, each.attack) == (role, name, attack)
                ]
                for place, answer in enumerate(own):
                    number = place if answer.number is None else answer.number
                    fact = self._facts.get((original, number))
                    if attack is not None and answer.number is None:
                        fact = self._by_question.get((original, answer.question))
                    if fact is not None:
                        found.setdefault(role, {})[fact] = answer.comes_out
        return found

    def _samples(self) -> Iterator[Probe]:
        found: dict[Role, dict[Fact, bool]] = {}
        most = 0
        for each in self._audit.samples or ():
            if fact := self._by_question.get((each.file, each.question)):
                found.setdefault(each.model, {})[fact] = each.leaks > 0
                most = max(most, each.samples)
        if found:
            yield Probe(f"any of {counted(most, 'sampled answer')}", found)

    def _altered(self) -> Iterator[Probe]:
        """Rounded weights, one probe a precision; further training, one probe a text, after any of its steps."""
        rounded: dict[str, dict[Role, dict[Fact, bool]]] = {}
        for answer in self._audit.quantisation_answers or ():
            if answer.leaked is not None and (fact := self._by_question.get((answer.file, answer.question))):
                rounded.setdefault(answer.weights, {}).setdefault(answer.model, {})[fact] = answer.leaked
        for weights, found in rounded.items():
            yield Probe(f"weights rounded to {weights}", found, alters=True)
        trained: dict[str, dict[Role, dict[Fact, bool]]] = {}
        for again in self._audit.relearning_answers or ():
            file = again.file.partition(" (")[0]
            fact = self._by_question.get((file, again.question))
            if fact and again.leaked is not None and again.step:
                own = trained.setdefault(again.trained_on, {}).setdefault(again.model, {})
                own[fact] = own.get(fact, False) or again.leaked
        for text, found in trained.items():
            what = "half of what was forgotten" if text == "forget" else f"{text} text"
            yield Probe(f"further training on {what}", found, alters=True)


def _plain(audit: Audit, role: Role, file: str) -> list[Answer]:
    """A model's plain answers to a file, in the order of its questions."""
    return [each for each in audit.answers if (each.model, each.file, each.attack) == (role, file, None)]
