"""`duet prefixes`: which unlearning prefix makes the best teacher? Asked before anything is captured or trained."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import polars as pl

from pipeline.console import progress, quieten_libraries, say, write
from pipeline.isolation import in_own_process
from pipeline.options import settings_options
from pipeline.prompting import prompter_for
from pipeline.questions import everything_asked
from pipeline.settings import Settings, load_settings
from stages.errors import DataError
from stages.files import refuse_unwritable, write_atomically
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import context_length, resolve_model
from stages.language_model.prefix import load_prefix
from stages.markdown_text import escaped


@click.command()
@settings_options
@click.argument("candidates", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="Write the Markdown table to this file, too.")
def prefixes(config: str, overrides: tuple[str, ...], candidates: tuple[Path, ...], out: Path | None) -> None:
    """Score CANDIDATES, prefix files, on the teacher alone; the base model without a prefix stands first.

    The validation files are asked, never the held-out ones.

    \b
    Example:  duet prefixes --config capitals data/capitals/prefixes/*.json
    """
    settings = load_settings(config, overrides).on_validation()
    if out:
        refuse_unwritable(out)
    quieten_libraries()
    for path in candidates:
        load_prefix(path)
    answers = in_own_process(answers_behind, settings, resolve_model(settings.model.path), candidates)
    text = prefix_table(answers, settings.evaluation.forget_files)
    if out:
        write_atomically(out, text.encode())
    write(text)


def names_of(candidates: Sequence[Path]) -> dict[str, Path]:
    """Each file under its name without the ending, or as it was given where another has the same. The same file counts once."""
    different = {path.resolve(): path for path in candidates}.values()
    stems = Counter(path.stem for path in different)
    return {path.stem if stems[path.stem] == 1 else str(path): path for path in different}


def answers_behind(settings: Settings, model: Path, candidates: tuple[Path, ...]) -> pl.DataFrame:
    """The model's answers to every question file behind each prefix, column `prefix` (null: none); no attacks."""
    quieten_libraries()
    from stages.evaluation.interview import interview, longest_prompt

    items = everything_asked(settings.with_evaluation(attacks=()))
    prompter = prompter_for(settings, model)
    for note in prompter.notes:
        say(note)
    loaded = {name: load_prefix(path) for name, path in names_of(candidates).items()}
    lengths = {name: longest_prompt(prompter, items, prefix) for name, prefix in loaded.items()}
    longest = max(lengths, key=lambda name: lengths[name])
    needed = lengths[longest] + settings.evaluation.max_tokens
    limit = context_length(model)
    if limit is not None and needed > limit:
        raise DataError(
            f"Behind the prefix {longest}, the longest prompt and answer take {needed} tokens, {model} holds {limit}.",
            "Nothing is truncated, because half a prefix is another prefix; nothing was asked.",
            "Shorten the prefix, or lower evaluation.max_tokens.",
        )
    engine = start_engine(
        settings.model.engine,
        EngineOptions(
            model=model,
            dtype=settings.model.dtype,
            context_length=needed,
            stop_ids=prompter.stop_ids(model),
            batch_rows=settings.model.batch_rows,
            gpus=settings.model.gpus,
        ),
    )
    frames = []
    total = len(items) * (len(loaded) + 1)
    with progress(f"Asking behind {len(loaded)} prefixes ({engine.name})", total, "questions") as advance:
        for name, prefix in [(None, None), *loaded.items()]:
            frame = interview(
                engine,
                prompter,
                items,
                role="teacher",
                prefix=prefix,
                max_tokens=settings.evaluation.max_tokens,
                refusals=settings.evaluation.refusals,
                advance=advance,
            )
            frames.append(frame.with_columns(pl.lit(name, dtype=pl.String).alias("prefix")))
    return pl.concat(frames)


def prefix_table(answers: pl.DataFrame, forget_files: tuple[str, ...]) -> str:
    """Markdown: recall and refusals per file and prefix, in points."""
    points = answers.group_by(["prefix", "file"], maintain_order=True).agg(
        recall=100 * pl.col("rouge_l_recall").mean(), refusals=100 * pl.col("refused").mean()
    )
    files = list(dict.fromkeys(answers["file"]))
    cells = {(row["prefix"], row["file"]): row for row in points.iter_rows(named=True)}
    titles = " | ".join(f"{escaped(file)} {'↓' if file in forget_files else '↑'}" for file in files)
    lines = [f"| prefix | {titles} |", "|---|" + "---:|" * len(files)]
    for name in dict.fromkeys(answers["prefix"]):
        figures = [f"{cells[name, file]['recall']:.0f}, {cells[name, file]['refusals']:.0f}" for file in files]
        lines.append(f"| {escaped(name) if name else 'none (the base model)'} | {' | '.join(figures)} |")
    return "\n".join([*lines, "", "ROUGE-L recall, refusals; points (0–100)."]) + "\n"
