"""`duet cache show`: what a cache is, and what its teacher says to one query."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from pipeline.cache.shared import folder, json_option, token_names, tokenizer_of
from pipeline.console import print_json, print_table, write
from pipeline.responses import as_json as responses_as_json
from pipeline.responses import responses_of, summary
from pipeline.trust import signed_by
from stages.errors import CacheError
from stages.logit_cache.fingerprint import NO_PREFIX
from stages.logit_cache.manifest import Manifest, read_manifest
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.rows import Row, example_id


@click.command()
@click.argument("cache", type=folder)
@click.option("--example", help="Show the top tokens of this example: its id, or the start of it.")
@click.option("--query", help="The same, by the query's text.")
@click.option("--beside", type=folder, help="Another cache of the same query, such as one without the prefix.")
@click.option("--top", default=8, show_default=True, type=click.IntRange(min=1), help="Tokens per position.")
@click.option("--model", help="Folder whose tokenizer turns ids into text; default: the teacher's.")
@click.option("--responses", is_flag=True, help="List the rows whose response does not fit their split.")
@json_option
def show(
    cache: Path,
    example: str | None,
    query: str | None,
    beside: Path | None,
    top: int,
    model: str | None,
    responses: bool,
    as_json: bool,
) -> None:
    """Show what CACHE is; with --example or --query, what the teacher says there.

    With --responses, show on which forget rows the teacher does not decline, and on which retain rows it does.

    \b
    Examples:
      duet cache show cache/demo
      duet cache show cache/demo --query "Tell me the capital of Cameroon." --beside cache/base
      duet cache show cache/demo --responses
    """
    if responses:
        if example or query or beside:
            raise click.UsageError("--responses is about all rows: give it without --example, --query and --beside.")
        show_responses(cache, model, as_json)
        return
    if not (example or query):
        manifest = read_manifest(cache)
        describe(manifest, as_json, [] if as_json else signed_by(cache, manifest))
        return
    manifest = read_manifest(cache)
    name = token_names(manifest, model)
    caches = [cache, *([beside] if beside else [])]
    found = [find(LogitCache(each), example, query) for each in caches]
    listed = [candidates(row, top, name) for row in found]
    if as_json:
        described = zip(caches, found, listed, strict=True)
        print_json([{"cache": str(each), "query": row.query, "positions": lines} for each, row, lines in described])
        return
    for position in range(max(len(lines) for lines in listed)):
        columns = [part for each in caches for part in (f"{each}: token", "logit")]
        rows = []
        for rank in range(top):
            cells: list[object] = []
            for lines in listed:
                here = lines[position]["candidates"] if position < len(lines) else []
                cells += [here[rank]["token"], f"{here[rank]['logit']:.2f}"] if rank < len(here) else ["", ""]
            rows.append(cells)
        print_table(f"{found[0].query!r}, position {position + 1}", columns, rows, left=0)


def show_responses(cache: Path, model: str | None, as_json: bool) -> None:
    """The rows whose response does not fit their split. Raises ModelError where no tokenizer can tell."""
    opened = LogitCache(cache)
    found = responses_of(opened, tokenizer_of(opened.manifest, model))
    if as_json:
        print_json(responses_as_json(found))
    else:
        write("\n".join(summary(found, named=None)))


def describe(manifest: Manifest, as_json: bool, signers: list[tuple[str, bool]]) -> None:
    """The manifest, whole as JSON or as what a person asks first."""
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    fingerprint, provenance = manifest.fingerprint, manifest.provenance
    size = sum(shard.bytes for shard in manifest.shards)
    lines = [
        ("cache id", manifest.cache_id),
        ("rows", f"{manifest.rows} ({', '.join(f'{count} {split}' for split, count in manifest.splits.items())})"),
        ("positions", f"{manifest.positions}, up to {fingerprint.positions} per row; K = {fingerprint.top_k}"),
        ("bytes", f"{size:,} in {len(manifest.shards)} shards, {size / manifest.positions:.1f} per position"),
        (
            "logits",
            f"{min(s.logit_min for s in manifest.shards):.2f} to {max(s.logit_max for s in manifest.shards):.2f}",
        ),
        ("teacher", f"{provenance.model}, {fingerprint.dtype}, weights {fingerprint.teacher_sha256[:12]}…"),
        ("tokenizer", f"{fingerprint.tokenizer_sha256[:12]}…, vocabulary {fingerprint.vocab_size:,}"),
        *prefix_lines(manifest),
        (
            "made by",
            f"{provenance.engine} {provenance.engine_version} on {provenance.hardware}, {provenance.started_at}",
        ),
        ("", " ".join(provenance.command)),
        ("derived from", ", ".join(each[:12] for each in provenance.derived_from) or "–"),
        ("signed by", _signers(signers)),
        ("licence", manifest.licence or "not stated"),
        ("sensitivity", manifest.sensitivity or "not stated"),
    ]
    print_table("", ["", ""], lines, left=2)


def _signers(signers: list[tuple[str, bool]]) -> str:
    told = (key if fits else f"{key} (does NOT fit this manifest)" for key, fits in signers)
    return ", ".join(told) or "nobody"


def prefix_lines(manifest: Manifest) -> list[tuple[str, str]]:
    """Which prefix the teacher read, and before what."""
    if manifest.fingerprint.prefix_sha256 == NO_PREFIX:
        return [("prefix", "none: these are the base model's logits")]
    where = "every query" if manifest.fingerprint.prefix_on_retain else "forget queries only"
    if not manifest.prefix.token_ids and not manifest.prefix.text:
        return [("prefix", f"before {where}; which one is not said, as in a cache pushed with --no-text")]
    return [("prefix", f"{len(manifest.prefix.token_ids)} tokens before {where}"), ("", manifest.prefix.text.strip())]


def find(cache: LogitCache, example: str | None, query: str | None) -> Row:
    """The example whose id begins so, or of this query. Raises CacheError if there is none, or more than one."""
    wanted = example or example_id(query or "")
    found = [row for row in cache.rows() if row.example_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    names = cache.frame(["example_id", "query"])
    queries = names["query"].to_list()
    near = [] if example else get_close_matches(query or "", queries, n=3)
    chosen = [queries.index(each) for each in near] or range(min(3, len(queries)))
    raise CacheError(
        f"{cache.folder} holds {len(found)} examples whose id begins with {example}."
        if example
        else f"{cache.folder} does not hold the query {query!r}.",
        "One was needed. For instance, there is\n    "
        + "\n    ".join(f"{names['example_id'][index]}  {queries[index]}" for index in chosen),
        "Name one by --query, or by --example and the start of its id.",
    )


def candidates(row: Row, top: int, name: Any) -> list[dict[str, Any]]:
    """Per position: what the teacher said, and its first candidates."""
    return [
        {
            "said": name(int(said)),
            "candidates": [
                {"id": int(token), "token": name(int(token)), "logit": round(float(logit), 4)}
                for token, logit in zip(row.topk_ids[t][:top], row.topk_logits[t][:top], strict=True)
            ],
        }
        for t, said in enumerate(row.response_ids)
    ]
