"""`duet cache diff`: what one prefix makes the teacher say otherwise than another, or than none."""

from pathlib import Path

import click
import polars as pl

from pipeline.cache.shared import folder, json_option, token_names
from pipeline.console import print_json, print_table, progress
from stages.logit_cache.difference import difference, summary
from stages.logit_cache.reader import LogitCache


@click.command()
@click.argument("one", type=folder)
@click.argument("other", type=folder)
@click.option(
    "--most", default=10, show_default=True, type=click.IntRange(min=0), help="Examples listed, most shifted first."
)
@click.option("--model", help="Folder whose tokenizer turns ids into text; default: the teacher's.")
@json_option
def diff(one: Path, other: Path, most: int, model: str | None, as_json: bool) -> None:
    """Compare the logits of ONE and OTHER, example by example.

    \b
    Example, a prefix against none:
      duet teacher-cache --config capitals --no-prefix --out cache/base
      duet cache diff cache/base cache/demo
    """
    first, second = LogitCache(one), LogitCache(other)
    with progress("Comparing", len(second), "examples") as advance:
        shifts = difference(first, second, advance=advance)
    means = summary(shifts)
    if as_json:
        print_json({"summary": means.to_dicts(), "examples": shifts.to_dicts()})
        return
    print_table(
        f"{one} → {other}, logits of the candidates that both list",
        ["split", "examples", "mean |shift|", "least", "greatest", "Top-K in common", "same answer"],
        [
            (r["split"], r["examples"], _figure(r["mean_abs_shift"]), _figure(r["least_shift"]),
             _figure(r["greatest_shift"]), f"{r['overlap']:.0%}", f"{r['same_answer']:.0%}")
            for r in means.iter_rows(named=True)
        ],
    )  # fmt: skip
    name = token_names(first.manifest, model)
    shown = shifts.sort(pl.col("mean_abs_shift"), descending=True, nulls_last=True).head(most)
    print_table(
        "most shifted, at the first position",
        ["query", "enter", "leave", "mean |shift|"],
        [
            (
                r["query"],
                " ".join(map(name, r["entered"][:5])),
                " ".join(map(name, r["left"][:5])),
                _figure(r["mean_abs_shift"]),
            )
            for r in shown.iter_rows(named=True)
        ],
        left=3,
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
