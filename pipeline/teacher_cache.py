"""`duet teacher-cache`: stage one. The prefixed teacher answers every query; its Top-K raw logits become a cache."""

import shlex
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from pipeline import __version__
from pipeline.command_line import recorded_command
from pipeline.console import progress, quieten_libraries, say, write
from pipeline.options import settings_options
from pipeline.prompting import prompter_for
from pipeline.responses import responses_of, summary
from pipeline.settings import Settings, load_settings
from stages.errors import SettingsError
from stages.files import write_json
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import (
    context_length,
    hash_tokenizer,
    hash_weights,
    load_tokenizer,
    resolve_model,
    vocab_size,
)
from stages.language_model.prefix import Prefix, load_prefix
from stages.language_model.prompts import Prompter
from stages.logit_cache.fingerprint import NO_PREFIX, Fingerprint, hash_prompts, hash_queries
from stages.logit_cache.manifest import MANIFEST, Manifest, Provenance, Shard, read_manifest
from stages.logit_cache.manifest import Prefix as PrefixRecord
from stages.logit_cache.plan import Plan
from stages.logit_cache.reader import LogitCache
from stages.logit_cache.writer import CacheWriter, refuse_full_disk, whole_shards
from stages.teacher.capture import capture
from stages.teacher.estimate import Forecast, forecast
from stages.teacher.prompts import Prompt, build_prompts, context_needed, shared_prefix_ids
from stages.teacher.queries import load_queries

NO_PREFIX_SETTINGS = ("teacher.prefix_on_forget=false", "teacher.prefix_on_retain=false")


@click.command("teacher-cache")
@settings_options
@click.option("--out", "cache", required=True, type=click.Path(path_type=Path), help="Folder of the new cache.")
@click.option("--no-prefix", is_flag=True, help="Ask the base model: the same queries, all without the prefix.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be captured; load no weights, write nothing.")
def teacher_cache(config: str, overrides: tuple[str, ...], cache: Path, no_prefix: bool, only_plan: bool) -> None:
    """Capture the prefixed teacher's Top-K raw logits into a frozen cache.

    A capture that was interrupted goes on where it stopped when the same command is given again.

    \b
    Examples:
      duet teacher-cache --config capitals --out cache/capitals
      duet teacher-cache --config capitals --no-prefix --out cache/base   (for duet cache diff and show --beside)
    """
    settings = load_settings(config, (*overrides, *(NO_PREFIX_SETTINGS if no_prefix else ())))
    quieten_libraries()
    prepared = prepare(settings)
    for note in prepared.prompter.notes if prepared.prefix else ():
        say(note)
    if only_plan:
        done = whole_shards(cache, prepared.plan)
        write(outline(prepared, forecast(prepared.prompts, prepared.plan, done), done))
        return
    with CacheWriter(cache, prepared.plan) as writer:
        if (cache / MANIFEST).exists() and not writer.missing:
            say(f"{cache} is finished already: nothing to do.")
            say(describe(cache, read_manifest(cache)))
            return
        if len(writer.missing) < prepared.plan.shard_count:
            say(
                f"{cache}: {prepared.plan.shard_count - len(writer.missing)} of {prepared.plan.shard_count} shards are there."
            )
        began, started_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        say(f"Starting the teacher {settings.model.path} …")
        engine = start_engine(settings.model.engine, prepared.options)
        rows = sum(len(prepared.plan.shard_range(index)) for index in writer.missing)
        with progress(f"Teacher ({engine.name})", rows, "queries") as advance:
            capture(engine, prepared.prompts, writer, advance=advance, tell=say)
        with refuse_full_disk(cache):
            write_json(cache / "settings.json", settings.model_dump(mode="json"))
        manifest = writer.publish(
            prefix_record(prepared),
            Provenance(
                model=settings.model.path,
                engine=engine.name,
                engine_version=engine.version,
                hardware=engine.hardware,
                started_at=started_at,
                seconds=round(time.perf_counter() - began, 1),
                command=recorded_command(),
                shard_rows=settings.teacher.shard_rows,
                duet_version=__version__,
            ),
            settings.data.licence,
            settings.data.sensitivity,
        )
    say(describe(cache, manifest))
    written = LogitCache(cache)
    if warning := says_one_thing(written, prepared.prompter):
        say(warning)
    if prepared.prefix is None:
        say(f"Next:  duet cache diff {shlex.quote(str(cache))} CACHE, with a cache of the same queries behind a prefix")
        return
    for line in what_was_said(written, prepared.prompter):
        say(line)
    options = " ".join(["--config", shlex.quote(config), *(f"--set {shlex.quote(each)}" for each in overrides)])
    run = shlex.quote(f"runs/{cache.resolve().name}")
    say(f"Next:  duet distill {options} --cache {shlex.quote(str(cache))} --out {run}")


@dataclass(frozen=True)
class Prepared:
    """All that is known before the teacher's weights are loaded."""

    prefix: Prefix | None
    prompter: Prompter
    prompts: list[Prompt]
    plan: Plan
    options: EngineOptions


def prepare(settings: Settings) -> Prepared:
    """Read and check every input, and fix the plan. Loads a tokenizer, but no weights."""
    queries = load_queries(settings.data.forget, settings.data.retain)
    prefix = load_prefix(settings.data.prefix) if settings.teacher.prefix_on_forget else None
    folder = resolve_model(settings.model.path)
    vocabulary = vocab_size(folder)
    if settings.teacher.top_k > vocabulary:
        raise SettingsError(
            f"teacher.top_k is {settings.teacher.top_k}, the vocabulary of {folder} has {vocabulary} tokens.",
            "There are no more candidates than tokens.",
            "Set fewer:  --set teacher.top_k=20",
        )
    tokenizer = load_tokenizer(folder)
    prompter = prompter_for(settings, folder)
    stop_ids = prompter.stop_ids(folder, may_think=False)
    prompts = build_prompts(queries, prefix, prompter, prefix_on_retain=settings.teacher.prefix_on_retain)
    positions = settings.teacher.positions
    fingerprint = Fingerprint(
        teacher_sha256=hash_weights(folder),
        tokenizer_sha256=hash_tokenizer(tokenizer),
        template_sha256=prompter.template_sha256(),
        prefix_sha256=prefix.sha256() if prefix else NO_PREFIX,
        prefix_on_retain=settings.teacher.prefix_on_retain,
        forget_sha256=hash_queries(queries.forget),
        retain_sha256=hash_queries(queries.retain),
        top_k=settings.teacher.top_k,
        positions=positions,
        dtype=settings.model.dtype,
        vocab_size=vocabulary,
        student_prompts_sha256=hash_prompts(prompt.student_ids for prompt in prompts),
        teacher_prompts_sha256=hash_prompts(prompt.teacher_ids for prompt in prompts),
        stop_ids=stop_ids,
    )
    return Prepared(
        prefix,
        prompter,
        prompts,
        Plan(fingerprint=fingerprint, rows=len(prompts), shard_rows=settings.teacher.shard_rows),
        EngineOptions(
            model=folder,
            dtype=settings.model.dtype,
            context_length=context_needed(prompts, positions=positions, limit=context_length(folder)),
            stop_ids=stop_ids,
            batch_rows=settings.model.batch_rows,
            gpus=settings.model.gpus,
        ),
    )


def prefix_record(prepared: Prepared) -> PrefixRecord:
    """What the manifest says of the prefix; nothing where there is none."""
    if prepared.prefix is None:
        return PrefixRecord(text="", token_ids=[])
    return PrefixRecord(text=prepared.prompter.text("", prepared.prefix), token_ids=shared_prefix_ids(prepared.prompts))


def outline(prepared: Prepared, expected: Forecast, done: Mapping[int, Shard]) -> str:
    """What a capture would be, a line for each of rows, positions, bytes and shards."""
    plan, prompts = prepared.plan, prepared.prompts
    forget = sum(prompt.split == "forget" for prompt in prompts)
    mean = expected.positions_per_row
    positions = (
        f"at most {expected.positions_at_most:,}, {plan.fingerprint.positions} per row"
        if mean is None
        else f"{mean * expected.rows:,.0f}, {mean:.2f} per row in the shards that are done"
        + (f"; at most {expected.positions_at_most:,}" if len(done) < plan.shard_count else "")
    )
    about = "" if len(done) == plan.shard_count else "about "
    # Without a shard to go by, no answer can be known to end early.
    full = ", if no answer ends early" if mean is None and plan.fingerprint.positions > 1 else ""
    return "\n".join(
        (
            f"rows        {expected.rows:,}: {forget:,} forget, {expected.rows - forget:,} retain",
            f"positions   {positions}",
            f"bytes       {about}{expected.bytes:,} at K = {plan.fingerprint.top_k}, {plan.fingerprint.dtype}{full}",
            f"shards      {plan.shard_count:,} of up to {plan.shard_rows:,} rows",
            f"done        {_ranges(done.keys()) or 'none'}",
            f"prompts     up to {max(len(prompt.teacher_ids) for prompt in prompts):,} tokens, "
            f"{len(shared_prefix_ids(prompts)):,} of them shared by all forget prompts",
        )
    )


def _ranges(indices: Set[int]) -> str:
    """Runs of numbers joined: `0–3, 7`."""
    starts = sorted(index for index in indices if index - 1 not in indices)
    ends = sorted(index for index in indices if index + 1 not in indices)
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}–{end}" for start, end in pairs)


def says_one_thing(cache: LogitCache, prompter: Prompter) -> str | None:
    """A warning if the teacher begins every answer, forget and retain alike, with the same token; None if it does not."""
    firsts: set[int] = set()
    for row in cache.rows():
        firsts.add(int(row.topk_ids[0, 0]))
        if len(firsts) > 1:  # as a rule after a few rows, however large the cache is
            return None
    token = prompter.tokenizer.decode(list(firsts))
    return (
        f"Warning: in all {cache.manifest.rows} rows the teacher's likeliest first token is {token!r}.\n"
        "  Such a position says nothing about the topic: the model may think or greet before it answers.\n"
        f"  Look at it:  duet cache show {shlex.quote(str(cache.folder))}   then set model.template_variables or another template"
    )


def what_was_said(cache: LogitCache, prompter: Prompter) -> list[str]:
    """Lines on where the prefix did not do what it is for: it left a forget query answered, or a retain query unanswered."""
    found = responses_of(cache, prompter.tokenizer)
    lines = [f"  {line}" for line in summary(found)]
    if found.misfits:
        lines.append(f"  All of them:  duet cache show {shlex.quote(str(cache.folder))} --responses")
        lines.append("  To leave them out:  duet distill … --set student.response_filter=both")
    if found.of("retain") and cache.manifest.fingerprint.prefix_on_retain:
        lines.append("  To ask retain queries without the prefix, capture with:  --set teacher.prefix_on_retain=false")
    return lines


def describe(cache: Path, manifest: Manifest) -> str:
    """One line about a finished cache."""
    splits = ", ".join(f"{count} {split}" for split, count in manifest.splits.items())
    size = sum(shard.bytes for shard in manifest.shards)
    return (
        f"{cache}: {manifest.rows} rows ({splits}), {manifest.positions} positions, K = {manifest.fingerprint.top_k}, "
        f"{size:,} bytes, cache id {manifest.cache_id[:12]}"
    )
