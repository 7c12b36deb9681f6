"""`duet finetune`: question files and a model become a model that knows them; without the forget files, one that never knew.

The second is the gold standard of unlearning: what a model looks like that has nothing to forget.
"""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.console import quieten_libraries
from pipeline.options import settings_options
from pipeline.prompting import prompter_for
from pipeline.run_folder import RunFolder
from pipeline.settings import Settings, load_settings
from pipeline.training import Training, carry_out
from stages.errors import SettingsError
from stages.evaluation.questions import Question, TaughtQuestion, load_taught
from stages.language_model.folder import context_length, hash_tokenizer, hash_weights, load_tokenizer, resolve_model
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter
from stages.logit_cache.fingerprint import sha256_json
from stages.logit_cache.rows import Split

if TYPE_CHECKING:
    from stages.student.finetuning import Example, Finetuning

# Settings that say where something lies.
NAMES = {"model", "forget", "retain"}


@click.command()
@settings_options
@click.option("--out", "run", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
@click.option(
    "--without-forget", is_flag=True, help="Leave the forget files out: a model that never knew what is in them."
)
def finetune(config: str, overrides: tuple[str, ...], run: Path, without_forget: bool) -> None:
    """Fine-tune a model on questions with their answers, to have a topic to forget and a control that never knew it.

    Checkpoints, several processes and SIGTERM are as for distill.

    \b
    Examples:
      duet finetune --config fictitious --out runs/fictitious/knows
      duet finetune --config fictitious --without-forget --out runs/fictitious/never-knew
    """
    settings = load_settings(config, overrides)
    quieten_libraries()
    carry_out(planned(settings, resolve_model(settings.finetune.model), run, without_forget=without_forget))


def planned(settings: Settings, base: Path, run: Path, *, without_forget: bool) -> Training:
    """The training of these settings. Raises SettingsError if no file is named, DataError for a bad one."""
    from stages.student.card import finetuned_card

    files: dict[Split, tuple[Path, ...]] = {
        "forget": () if without_forget else settings.finetune.forget,
        "retain": settings.finetune.retain,
    }
    named = [str(path) for paths in files.values() for path in paths]
    if not named:
        raise SettingsError(
            "The settings name no file to fine-tune on.",
            "Without examples nothing can be learnt, so nothing was trained.",
            "Name question files under [finetune]: forget and retain.",
        )
    questions = {split: [each for path in paths for each in load_taught(path)] for split, paths in files.items()}
    tokenizer = load_tokenizer(base)
    prompter = prompter_for(settings, base)

    def lesson() -> "Finetuning":
        from stages.student.finetuning import Finetuning

        own, ends = settings.finetune, prompter.stop_ids(base, may_think=False)
        examples = [each for split, asked in questions.items() for each in examples_of(prompter, ends, asked, split)]
        return Finetuning(
            examples,
            own,
            validation_share=own.validation_share,
            group_by_length=own.group_by_length,
            context_length=context_length(base),
        )

    identity = {
        "base_sha256": hash_weights(base),
        "data_sha256": sha256_json(
            {
                "tokenizer": hash_tokenizer(tokenizer),
                "template": prompter.template_sha256(),
                "questions": {
                    split: [[q.system, q.question, q.answer] for q in asked] for split, asked in questions.items()
                },
            }
        ),
        # Which files and which model, by their contents; and under which names, is no matter.
        "finetune_sha256": sha256_json(
            {key: value for key, value in settings.finetune.determining().items() if key not in NAMES}
        ),
    }
    return Training(
        folder=RunFolder(run, "finetune", identity, settings.model_dump(mode="json")),
        base=base,
        base_name=settings.finetune.model,
        settings=settings.finetune,
        lesson=lesson,
        card=finetuned_card(
            base=settings.finetune.model, files=named, settings=settings.finetune, duet_version=__version__
        ),
        facts={"files": named, "examples": sum(map(len, questions.values()))},
        next_step=f'duet ask --model {quote(f"{run}/model")} "…"',
    )


def examples_of(
    prompter: Prompter, end_ids: Sequence[int], questions: Sequence[Question | TaughtQuestion], split: Split
) -> "list[Example]":
    """Each question as its prompt, with its answer as the response, up to and including the end of the turn."""
    from stages.student.finetuning import Example

    examples = []
    for each in questions:
        system = each.system if isinstance(each, TaughtQuestion) else ""
        prefix = Prefix(system=system) if system else None
        response = prompter.response_ids(each.question, each.answer, end_ids, prefix)
        examples.append(Example(each.question, split, prompter.ids(each.question, prefix), response))
    return examples
