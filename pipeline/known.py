"""What the base model knows of the files that are attacked: its answers in, the numbers of the questions to attack out.

Only what the base knew can be forgotten, so an attack on anything else is time without evidence.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from pipeline.console import progress, quieten_libraries, say
from pipeline.isolation import in_own_process
from pipeline.prompting import prompter_for
from pipeline.questions import question_files
from pipeline.session import start_for
from pipeline.settings import Settings

# By attacked file the numbers of its questions, from 0.
Numbers = Mapping[str, Sequence[int]]


def questions_to_attack(settings: Settings, base: Path, answers: pl.DataFrame | None) -> Numbers:
    """Of each attacked file the questions that the base answers rightly, or all of them where it answers none.

    answers: what the base said before, or None; it is then asked the attacked files plainly, in a process of its own. At most
    evaluation.attacked_questions of each file, evenly spread. Empty where nothing is attacked and nothing sampled.
    """
    asked = settings.evaluation
    if not asked.attacked_files or not (asked.attacks or asked.samples):
        return {}
    found: Numbers = in_own_process(_known, settings, base, answers)
    return found


def _known(settings: Settings, base: Path, answers: pl.DataFrame | None) -> Numbers:
    """For a process of its own: asking loads an engine, and counting starts threads."""
    from stages.evaluation.interview import spread

    quieten_libraries()
    said = _ask_plainly(settings, base) if answers is None else answers
    plain = said.filter((pl.col("model") == "base") & pl.col("attack").is_null())
    found: dict[str, Sequence[int]] = {}
    for file in settings.evaluation.attacked_files:
        own = plain.filter(pl.col("file") == file)
        known = own.filter(pl.col("right"))["number"].sort().to_list()
        if not known:
            say(
                f"Warning: the base answers none of the {own.height} questions of {file} rightly. Attacks ask for all of them."
            )
        places = known or list(range(own.height))
        found[file] = [places[each] for each in spread(len(places), settings.evaluation.attacked_questions)]
    return found


def _ask_plainly(settings: Settings, base: Path) -> pl.DataFrame:
    """The base's plain answers to the attacked files."""
    from stages.evaluation.interview import interview, longest_prompt, plan

    asked, prompter = settings.evaluation, prompter_for(settings, base)
    files = {name: questions for name, questions in question_files(settings).items() if name in asked.attacked_files}
    items = plan(files, (), {})
    engine = start_for(settings, base, longest_prompt(prompter, items, None) + asked.max_tokens)
    with progress(f"what the base knows ({engine.name})", len(items), "questions") as advance:
        return interview(
            engine,
            prompter,
            items,
            role="base",
            prefix=None,
            max_tokens=asked.max_tokens,
            refusals=asked.refusals,
            advance=advance,
        )
