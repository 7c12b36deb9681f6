"""Settings in, everything that is asked out: question files, what attacks draw on, and the plan for one model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.console import quieten_libraries
from pipeline.settings import Settings
from stages.errors import DataError, SettingsError
from stages.evaluation.attacks import AttackName, Materials, check_materials, lacks
from stages.evaluation.questions import Question, load_questions

if TYPE_CHECKING:
    from stages.evaluation.choice_tasks import ChoiceTasks
    from stages.evaluation.choices import ChoiceQuestion
    from stages.evaluation.interview import Item


def question_files(settings: Settings) -> dict[str, list[Question]]:
    """Every question file of the settings, read and checked."""
    if not settings.evaluation.questions:
        raise SettingsError(
            "The settings name no question file.",
            "Without questions nothing can be scored.",
            "Name them under [evaluation.questions], or:  --set evaluation.questions.forget=FILE",
        )
    files = {name: load_questions(path) for name, path in settings.evaluation.questions.items()}
    for name, original in settings.evaluation.paraphrases.items():
        _check_paraphrases(name, files[name], original, files[original])
    return files


def _check_paraphrases(name: str, again: list[Question], original: str, questions: list[Question]) -> None:
    """Raises DataError unless line n of both asks for the same fact: what changes from one to the other is paired."""
    unequal = [n for n, (one, other) in enumerate(zip(again, questions, strict=False), 1) if one.answer != other.answer]
    if len(again) == len(questions) and not unequal:
        return
    found = f"line {unequal[0]} has another answer" if unequal else f"it has {len(again)} lines, and {len(questions)}"
    raise DataError(
        f"{name} does not ask {original} again: {found}" + ("." if unequal else " were needed."),
        "What other words change is told question by question, so every line must ask for the same fact.",
        "Mend the file, or take it out of evaluation.paraphrases.",
    )


def attack_materials(settings: Settings) -> dict[str, Materials]:
    """What attacks draw on, for each attacked file. Raises DataError where it does not fit the file."""
    asked, files = settings.evaluation, question_files(settings)
    kept = [name for name in files if name not in asked.forget_files]
    found = {}
    for name in asked.attacked_files:
        found[name] = Materials(
            questions=files[name],
            revealing=_optional(asked.revealing),
            # The last file to be kept is the furthest from the topic, by the order of the presets.
            companions=files[kept[-1]] if kept else (),
            translated=_optional(asked.translated.get(name)),
        )
        check_materials(name, found[name])
    return found


def left_out(settings: Settings) -> dict[AttackName, str]:
    """Attacks that these settings cannot make, each with what is missing."""
    materials = attack_materials(settings)
    found: dict[AttackName, str] = {}
    for attack in get_args(AttackName):
        for name, each in materials.items():
            if reason := lacks(attack, each):
                found[attack] = f"{name}: {reason}"
        if attack == "no_template" and settings.model.template == "plain":
            found[attack] = "model.template is plain, so there is none to leave out"
    return found


def everything_asked(settings: Settings, attacked: Mapping[str, Sequence[int]] | None = None) -> "list[Item]":
    """The plan for one model. attacked: by attacked file the numbers of the questions to attack; default: all.

    Raises SettingsError for an attack that cannot be made: none is dropped in silence.
    """
    from stages.evaluation.interview import plan

    attacks = settings.evaluation.attacks
    materials = attack_materials(settings) if attacks else {}
    for attack, reason in left_out(settings).items() if attacks else ():
        if attack in attacks:
            raise SettingsError(
                f"The attack {attack} cannot be made: {reason}.",
                "It is named under evaluation.attacks, so nothing was asked.",
                "Give it what it needs, take it out, or use duet audit, which makes every attack that can be made.",
            )
    return plan(question_files(settings), attacks, materials, attacked)


def unseen_files(settings: Settings) -> dict[str, list[Question]]:
    """By attacked file, facts of the same kind that no model was trained on; empty where the settings name none."""
    return {name: load_questions(path) for name, path in settings.evaluation.unseen.items()}


def choice_files(settings: Settings) -> "dict[str, list[ChoiceQuestion]]":
    """Every multiple-choice file of the settings. Raises SettingsError if the examples leave nothing to score."""
    from stages.evaluation.choices import load_choices

    found = {name: load_choices(path) for name, path in settings.evaluation.choices.items()}
    for name, questions in found.items():
        if len(questions) <= settings.evaluation.choice_shots:
            raise SettingsError(
                f"{name} has {len(questions)} questions, and {settings.evaluation.choice_shots} are shown as examples.",
                "None would be left to score, so nothing was asked.",
                "Set evaluation.choice_shots lower.",
            )
    return found


def choice_tasks(settings: Settings) -> "ChoiceTasks":
    """Every multiple-choice file and task of the settings, laid out. Loads lm-eval. Raises as `load_tasks` does."""
    from stages.evaluation.choice_tasks import load_tasks

    asked = settings.evaluation
    how: Any = {"shots": asked.choice_shots, "form": asked.choice_form, "folder": asked.task_folder}
    return load_tasks(choice_files(settings), asked.tasks, **how)


def task_digests(settings: Settings) -> dict[str, str]:
    """By task of the hub a hash of all that it asks. For a process of its own: it loads lm-eval."""
    quieten_libraries()
    return choice_tasks(settings.with_evaluation(choices={})).digests()


def left_out_tasks(settings: Settings) -> dict[str, str]:
    """Tasks whose questions cannot be had, each with its reason. For a process of its own: it loads lm-eval."""
    quieten_libraries()
    from stages.evaluation.choice_tasks import left_out_tasks

    asked = settings.evaluation
    return left_out_tasks(asked.tasks, shots=asked.choice_shots, folder=asked.task_folder)


def _optional(path: Path | None) -> list[Question]:
    return load_questions(path) if path else []
