"""What can be set about evaluation: question files, attacks, samples, multiple choice."""

from pydantic import Field, model_validator

from stages.evaluation.attacks import AttackName
from stages.evaluation.interview import ModelRole
from stages.evaluation.questions import ChoiceForm
from stages.settings import InputPath, Section


class EvaluationSettings(Section):
    """What is asked of a model, and how."""

    questions: dict[str, InputPath] = Field(
        default_factory=dict,
        description="Question files by name; forget, retain and forget_500 enter Performance Shift.",
    )
    validation: dict[str, InputPath] = Field(
        default_factory=dict,
        description="Other files under the same names, to tune on: used by prefixes, sweep and evaluate --validation.",
    )
    forget_files: tuple[str, ...] = Field(
        ("forget",), description="Files on what is to be forgotten; the others are to be kept."
    )
    attacks: tuple[AttackName, ...] = Field(
        ("reverse",), description="Attacks on `attacked_files`; duet audit makes every one that can be made."
    )
    attacked_files: tuple[str, ...] = Field(("forget",), description="Files that are attacked.")
    attacked_questions: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="At most so many questions of a file, evenly spread, for what costs most: attacks and samples, which ask for "
        "what the base knows, fluency and layers; default: all, and 64 for the layers.",
    )
    revealing: InputPath | None = Field(
        None, description="Question file on other entities, shown with its answers by the attack few_shot."
    )
    translated: dict[str, InputPath] = Field(
        default_factory=dict,
        description="By attacked file: the same questions, line by line, in another language, for the attack other_language.",
    )
    paraphrases: dict[str, str] = Field(
        default_factory=dict,
        description="By question file the one that it asks again, line by line, in other words: counted as an attack on it.",
    )
    membership: bool = Field(
        False,
        description="Compare how likely the true answers of attacked files are with others: membership inference.",
    )
    unseen: dict[str, InputPath] = Field(
        default_factory=dict,
        description="By attacked file: facts of the same kind that no model was trained on, for membership inference; "
        "default: the file's own questions with their answers swapped.",
    )
    refusals: InputPath | None = Field(
        None,
        description="TOML file of further sentences that count as a refusal: lists of regular expressions by language, "
        "added to our own.",
    )
    requests: InputPath | None = Field(
        None,
        description="File of everyday requests, which the audit puts to base, student and control: does the student still do "
        "what it is asked?",
    )
    request_tokens: int = Field(96, ge=1, le=2**17, description="Longest answer to a request.")
    forget_margin: float = Field(
        10.0,
        gt=0,
        le=100,
        description="Points by which more may come out of the student than of a model that never knew, for the verdict.",
    )
    keep_margin: float = Field(
        5.0, gt=0, le=100, description="Points that a loss on what is to be kept may not reach, for the verdict."
    )
    max_tokens: int = Field(32, ge=1, le=2**17, description="Longest answer.")
    first_tokens: int = Field(
        3, ge=0, le=10**6, description="Questions per file whose ten likeliest first tokens are kept, for every model."
    )
    samples: int = Field(
        0, ge=0, le=1024, description="Answers sampled at temperature 1 per attacked question, for leak@k; 0: none."
    )
    sample_seed: int = Field(0, ge=0, description="Seed of the sampled answers.")
    sampled_models: tuple[ModelRole, ...] = Field(
        ("base", "student", "control"), description="Models that are sampled; those that are there."
    )
    fluency: bool = Field(False, description="Score the perplexity of answers without attack under the base model.")
    choices: dict[str, InputPath] = Field(
        default_factory=dict,
        description="Multiple-choice files by name, scored by likelihood; mmlu enters Performance Shift as such.",
    )
    tasks: tuple[str, ...] = Field(
        (),
        description="Multiple-choice tasks and groups of lm-eval by name (mmlu, wmdp_bio), in their own form; from the hub.",
    )
    task_folder: InputPath | None = Field(
        None, description="Folder of further task files for lm-eval (YAML); their names come before its own."
    )
    forget_choices: tuple[str, ...] = Field(
        (),
        description="Of these files and tasks, those on what is to be forgotten (wmdp_bio); the others are to be kept.",
    )
    choice_shots: int = Field(
        0,
        ge=0,
        le=5,
        description="Solved examples: a file's first questions, not scored; of a task those that it chooses itself.",
    )
    choice_form: ChoiceForm = Field(
        "text",
        description="Of files. text: each option's own words are scored, per character; letters: the letters of a list.",
    )
    choice_models: tuple[ModelRole, ...] = Field(
        ("base", "student", "control"),
        description="Models that answer multiple choice; vLLM reads a teacher's prefix anew each time.",
    )

    @model_validator(mode="after")
    def _known_files(self) -> "EvaluationSettings":
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError("attacks names one of them twice")
        if len(set(self.tasks)) < len(self.tasks) or set(self.tasks) & self.choices.keys():
            raise ValueError("tasks names one of them twice, or one that is under choices, too")
        if unknown := set(self.forget_choices) - {*self.choices, *self.tasks}:
            raise ValueError(f"forget_choices names {sorted(unknown)[0]!r}, which is not under choices or tasks")
        again = {*self.paraphrases, *self.paraphrases.values()}
        if self.questions and (unknown := again - self.questions.keys()):
            raise ValueError(f"paraphrases names {sorted(unknown)[0]!r}, which is not under questions")
        for files in ("questions", "validation"):
            named = getattr(self, files)
            for field in ("forget_files", "attacked_files"):
                if named and (unknown := set(getattr(self, field)) - named.keys()):
                    raise ValueError(f"{field} names {sorted(unknown)[0]!r}, which is not under {files}")
        return self
