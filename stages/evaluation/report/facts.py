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
        self._said: dict[tuple[Role, str, str | None], list[Answer]] = {}
        for answer in audit.answers:
            self._said.setdefault((answer.model, answer.file, answer.attack), []).append(answer)
        again = audit.run.settings["evaluation"].get("paraphrases", {})
        self._files = [file for file in audit.forget_files if file not in again]
        # The base answers every question of a file plainly, in their order.
        plain = [
            (Fact(file, number, answer.group or answer.question), answer)
            for file in self._files
            for number, answer in enumerate(self._said.get(("base", file, None), ()))
        ]
        self._by_number = {(fact.file, fact.number): fact for fact, _ in plain}
        self._by_question = {(fact.file, answer.question): fact for fact, answer in plain}
        self.known = frozenset(fact for fact, answer in plain if answer.is_right)
        self.unknown = frozenset(fact for fact, answer in plain if not answer.is_right)
        self.probes = tuple(self._probes(again))

    @property
    def worst_case(self) -> frozenset[Fact]:
        """Of each file, the known facts that all of the probes which ask for anything in it asked for.

        Where an audit attacks some of the facts only, the others cannot come out by what they were never asked. A file that
        nothing attacks counts whole: its facts may come out plainly.
        """
        found: set[Fact] = set()
        for file in self._files:
            own = {fact for fact in self.known if fact.file == file}
            for probe in self.probes:
                asked = {fact for fact in probe.came_out.get("student", {}) if fact.file == file}
                if asked and not probe.alters and not probe.supplies_answer:
                    own &= asked
            found |= own
        return frozenset(found)

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

    def _probes(self, again: Mapping[str, str]) -> Iterator[Probe]:
        """again: by file of paraphrases the one that it asks again, line by line."""
        themselves = [(file, file) for file in self._files]
        yield Probe(PLAIN, self._answers(themselves, None))
        if worded := [pair for pair in again.items() if pair[1] in self._files]:
            yield Probe("asked in other words", self._answers(worded, None), PARAPHRASE)
        for attack in dict.fromkeys(answer.attack for answer in self._audit.answers if answer.attack):
            supplies = attack in ATTACKS and ATTACKS[attack].supplies_answer
            yield Probe(f"the attack “{attack_name(attack)}”", self._answers(themselves, attack), attack, supplies)
        yield from self._samples()
        yield from self._altered()

    def _answers(self, files: Sequence[tuple[str, str]], attack: str | None) -> dict[Role, dict[Fact, bool]]:
        """files: a question file and the one whose facts it asks for."""
        found: dict[Role, dict[Fact, bool]] = {}
        for name, original in files:
            for role in self._audit.roles:
                for place, answer in enumerate(self._said.get((role, name, attack), ())):
                    # Older files do not number their answers: a plain one has its place, an attack asks the question itself.
                    number = place if answer.number is None else answer.number
                    fact = self._by_number.get((original, number))
                    if answer.number is None and attack is not None:
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
