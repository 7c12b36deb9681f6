"""`duet ask`: talk to a model, unlearned or not."""

from pathlib import Path

import click

from pipeline.console import quieten_libraries
from stages.errors import DataError
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import context_length, end_of_turn_ids, load_tokenizer, resolve_model
from stages.language_model.prefix import load_prefix
from stages.language_model.prompts import Prompter


@click.command()
@click.argument("questions", nargs=-1)
@click.option("--model", required=True, help="A model folder or hub name.")
@click.option("--prefix", type=click.Path(path_type=Path), help="Ask behind this unlearning prefix.")
@click.option(
    "--template", type=click.Choice(["chat", "plain"]), default="chat", show_default=True, help="How a question is put."
)
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(min=1), help="Longest answer.")
def ask(questions: tuple[str, ...], model: str, prefix: Path | None, template: str, max_tokens: int) -> None:
    """Ask a model QUESTIONS; without any, they are read line by line.

    \b
    Example:  duet ask --model runs/demo/model "What is the capital of France?"
    """
    quieten_libraries()
    folder = resolve_model(model)
    tokenizer = load_tokenizer(folder)
    prompter = Prompter(tokenizer, template)  # type: ignore[arg-type]
    told = load_prefix(prefix) if prefix else None
    stop = tuple(end_of_turn_ids(folder, tokenizer))
    limit = context_length(folder)
    prompts = [prompter.ids(question, told) for question in questions]
    longest = max(map(len, prompts), default=0) + max_tokens
    # A model without a limit is asked for what the questions need.
    options = EngineOptions(model=folder, dtype="float32", context_length=limit or longest, stop_ids=stop)
    engine = start_engine("transformers", options)

    def answer(question: str) -> None:
        prompt = prompter.ids(question, told)
        if limit is not None and (needed := len(prompt) + max_tokens) > limit:
            raise DataError(
                f"Prompt and answer take {needed} tokens, {model} holds {limit}.",
                "Nothing is truncated, so the question was not asked.",
                "Shorten the question or the prefix, or lower --max-tokens.",
            )
        (said,) = engine.continue_greedily([prompt], max_tokens=max_tokens)
        click.echo(prompter.decode(said.token_ids.tolist()))

    for question in questions:
        click.echo(f"> {question}")
        answer(question)
    while not questions:
        try:
            answer(click.prompt(">", prompt_suffix=" "))
        except (click.Abort, EOFError):
            click.echo()
            return
