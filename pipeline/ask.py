"""`duet ask`: talk to a model, unlearned or not."""

from pathlib import Path

import click

from pipeline.console import ask_line, quieten_libraries, say, write
from pipeline.prompting import prompter_of, trained_otherwise
from pipeline.settings import ModelSettings, load_settings
from stages.errors import DataError
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import context_length, resolve_model
from stages.language_model.prefix import load_prefix
from stages.language_model.prompts import Template
from stages.texts import unfit_character


@click.command()
@click.argument("questions", nargs=-1)
@click.option("--model", required=True, help="A model folder or hub name.")
@click.option("--prefix", type=click.Path(path_type=Path), help="Ask behind this unlearning prefix.")
@click.option(
    "--config", metavar="FILE|PRESET", help="Settings whose [model] says how to ask: template, date, thinking."
)
@click.option("--template", type=click.Choice(["chat", "plain"]), help="How a question is put; default: chat.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(min=1), help="Longest answer.")
def ask(
    questions: tuple[str, ...],
    model: str,
    prefix: Path | None,
    config: str | None,
    template: Template | None,
    max_tokens: int,
) -> None:
    """Ask a model QUESTIONS; without any, they are read line by line.

    \b
    Example:  duet ask --model runs/demo/model "What is the capital of France?"
    """
    quieten_libraries()
    for question in questions:
        if unfit := unfit_character(question):
            raise DataError(f"A question holds {unfit}.", "UTF-8 text was needed, so nothing was asked.")
    folder = resolve_model(model)
    how = load_settings(config).model if config else ModelSettings()
    if template:
        how = how.model_copy(update={"template": template})
    prompter = prompter_of(how, folder)
    if trained_otherwise(folder, prompter):
        say(
            f"{folder} was trained through another template, date or switch; name its settings with --config to ask it so."
        )
    told = load_prefix(prefix) if prefix else None
    for note in prompter.notes if told else ():
        say(note)
    limit = context_length(folder)
    prompts = [prompter.ids(question, told, may_think=True) for question in questions]
    longest = max(map(len, prompts), default=0) + max_tokens
    # A model without a limit is asked for what the questions need.
    options = EngineOptions(
        model=folder, dtype="float32", context_length=limit or longest, stop_ids=prompter.stop_ids(folder)
    )
    engine = start_engine("transformers", options)

    def answer(question: str) -> None:
        prompt = prompter.ids(question, told, may_think=True)
        if limit is not None and (needed := len(prompt) + max_tokens) > limit:
            raise DataError(
                f"Prompt and answer take {needed} tokens, {model} holds {limit}.",
                "Nothing is truncated, so the question was not asked.",
                "Shorten the question or the prefix, or lower --max-tokens.",
            )
        (said,) = engine.continue_greedily([prompt], max_tokens=max_tokens)
        thought, answered = prompter.split(said.token_ids.tolist(), prompt_ids=prompt)
        if thought:
            say(f"(thinking) {thought}")
        if thought and not answered:
            say(f"The thinking took all {max_tokens} tokens; allow more with --max-tokens.")
        write(answered)

    for question in questions:
        write(f"> {question}")
        answer(question)
    while not questions:
        try:
            answer(ask_line(">"))
        except (click.Abort, EOFError):
            write()
            return
