"""What an audit, a record of training and its metrics consist of, checked as they are read.

A key that an older version did not write is absent here, too: never 0, and never made up.
"""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from stages.untrusted_json import Many

Role = Literal["base", "teacher", "student", "control"]
ROLES: tuple[Role, ...] = get_args(Role)


class Record(BaseModel):
    """One row. Columns that this version does not know are for later ones."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Measured(Record):
    """A mean with its 95 % interval, in points unless the row's metric says otherwise; no interval where n < 2."""

    model: Role
    mean: float
    low: float | None = None
    high: float | None = None
    n: int = Field(ge=1)


class Score(Measured):
    file: str
    attack: str | None = None
    supplies_answer: bool = False
    metric: str
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None


class Leak(Measured):
    file: str
    k: int = Field(ge=1)


class Choice(Measured):
    file: str
    metric: str = "accuracy"


class Quantised(Measured):
    weights: str
    file: str
    metric: str
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None


class Lens(Measured):
    file: str
    layer: int = Field(ge=0)
    layers: int


class WeightChange(Record):
    layer: str
    norm: float
    relative: float | None


class Membership(Record):
    model: Role
    file: str
    score: str
    compared_with: str
    auc: float
    low: float | None = None
    high: float | None = None
    n: int
    n_others: int
    expected: float


class Relearning(Measured):
    trained_on: str
    step: int = Field(ge=0)
    file: str
    metric: str
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None


class Token(Record):
    token: str
    probability: float


class FirstTokens(Record):
    model: Role
    file: str
    question: str
    reference: str
    tokens: Many[Token]


class Answer(Record):
    model: Role
    file: str
    number: int | None = Field(None, ge=0)
    group: str | None = None
    attack: str | None = None
    supplies_answer: bool = False
    question: str
    asked: str | None = None
    answer_start: str = ""
    reference: str
    answer: str
    tokens: int
    cut: bool | None = None
    rouge_l_recall: float
    in_full: bool | None = None
    leaked: bool | None = None
    right: bool | None = None
    refused: bool
    degenerate: bool
    log_probability: float | None = None

    @property
    def comes_out(self) -> bool:
        """Whether the answer stands in it; evaluations made before leaks were measured told words in a row only."""
        return bool(self.in_full if self.leaked is None else self.leaked)

    @property
    def is_right(self) -> bool:
        """Whether it gives the answer; before that was measured, whether the answer's words stand in it."""
        return bool(self.in_full if self.right is None else self.right)


class QuantisedAnswer(Record):
    model: Role
    weights: str
    file: str
    question: str
    leaked: bool | None = None


class RelearntAnswer(Record):
    model: Role
    trained_on: str
    step: int = Field(ge=0)
    file: str
    question: str
    leaked: bool | None = None


class ChoiceAnswer(Record):
    model: Role
    file: str
    question: str
    correct: bool
    groups: Many[str] = ()


class Instructed(Record):
    """One answer to an everyday request. words: of the answer; log_probability: per token under the base."""

    model: Role
    number: int = Field(ge=0)
    kind: str
    request: str
    answer: str
    tokens: int = Field(ge=0)
    words: int = Field(ge=0)
    cut: bool
    refused: bool
    degenerate: bool
    log_probability: float | None = None


class Sampled(Record):
    model: Role
    file: str
    question: str
    samples: int
    leaks: int


class StandIn(Record):
    stands_for: str
    part: float


class Shift(Record):
    value: float | None
    parts: dict[str, float | None]
    sum_of_measured: float | None
    reasons: dict[str, str] = {}
    stand_ins: dict[str, StandIn] = {}


class Made(Record):
    """How the audit was made."""

    inputs: dict[str, str]
    settings: dict[str, dict[str, Any]]
    base: str
    student: str
    control: str | None = None
    hardware: str
    seconds: float
    seconds_of_parts: dict[str, float] = {}
    finished_at: str
    duet_version: str
    joules: float | None = None


class Audit(Record):
    """What `duet evaluate` or `duet audit` wrote. A part that is None or empty was not measured."""

    scores: Many[Score] = Field(min_length=1)
    performance_shift: Shift
    answers: Many[Answer]
    run: Made
    not_measured: dict[str, str] = {}
    samples: Many[Sampled] | None = None
    leaks: Many[Leak] | None = None
    choices: Many[Choice] | None = None
    choice_answers: Many[ChoiceAnswer] | None = None
    first_tokens: Many[FirstTokens] | None = None
    instructions: Many[Instructed] | None = None
    quantisation: Many[Quantised] | None = None
    quantisation_answers: Many[QuantisedAnswer] | None = None
    lens: Many[Lens] | None = None
    weight_change: Many[WeightChange] | None = None
    membership: Many[Membership] | None = None
    relearning: Many[Relearning] | None = None
    relearning_answers: Many[RelearntAnswer] | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """Models that answered, in the order of ROLES."""
        return tuple(role for role in ROLES if any(score.model == role for score in self.scores))

    @property
    def asked(self) -> frozenset[tuple[str, str]]:
        """File and question of every answer without attack."""
        return frozenset((answer.file, answer.question) for answer in self.answers if answer.attack is None)

    @property
    def files(self) -> tuple[str, ...]:
        """Question files that were asked without attack."""
        return tuple(dict.fromkeys(score.file for score in self.scores if score.attack is None))

    @property
    def forget_files(self) -> tuple[str, ...]:
        """Of these, those on what is to be forgotten."""
        named = self.run.settings["evaluation"]["forget_files"]
        return tuple(file for file in self.files if file in named)

    @property
    def kept_files(self) -> tuple[str, ...]:
        """Of these, those on what is to be kept."""
        return tuple(file for file in self.files if file not in self.forget_files)


class Training(Record):
    """The record of `duet distill`."""

    cache_id: str
    settings: dict[str, dict[str, Any]]
    cache: str | None = None
    model_sha256: str
    steps: int
    seconds: float
    processes: int = 1
    hardware: str
    started_at: str
    duet_version: str
    joules: float | None = None


class Step(Record):
    step: int
    loss_forget: float | None = None
    loss_retain: float | None = None
    tokens_per_s: float
    step_s: float
