"""`duet cache verify`: every hash and every row; on request some rows once more on the teacher; and what nothing proves."""

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.cache.shared import folder, json_option, local_teacher
from pipeline.console import print_json, print_table, progress, quieten_libraries, say
from pipeline.isolation import in_own_process
from pipeline.trust import signed_by, signer_of, trust_option
from stages.errors import CacheError, ModelError
from stages.language_model.engine import EngineName
from stages.logit_cache.fingerprint import NO_PREFIX, hash_prompts
from stages.logit_cache.manifest import MANIFEST, Manifest, read_manifest
from stages.logit_cache.rows import Row
from stages.logit_cache.verification import Asks, Fault, Findings, Unchecked
from stages.logit_cache.verification import verify as verify_cache


@click.command()
@click.argument("cache", type=folder)
@click.option("--rescore", type=click.IntRange(min=1), metavar="N", help="Ask the teacher N of the rows again.")
@click.option("--model", help="The teacher's folder; default: the folder that the manifest names.")
@click.option(
    "--engine", type=click.Choice(["auto", "vllm", "transformers"]), default="auto", help="Engine of --rescore."
)
@click.option("--tolerance", default=1e-3, show_default=True, help="Largest |Δ| of --rescore, in logit units.")
@trust_option
@json_option
def verify(
    cache: Path,
    rescore: int | None,
    model: str | None,
    engine: EngineName,
    tolerance: float,
    trust: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Check CACHE: manifest, every hash, every row; with the teacher's tokenizer also that they are its queries' tokens.

    Lists what was checked, and what could not be and why; with --trust, one of these keys must have signed it.
    Ends with code 1 if anything is wrong.

    \b
    Examples:
      duet cache verify cache/demo
      duet cache verify cache/demo --rescore 20
      duet cache verify cache/demo --trust team.pub
    """
    manifest = read_manifest(cache)
    signer = signer_of(cache, manifest, trust)
    signatures = [{"key": key, "fits": fits} for key, fits in signed_by(cache, manifest)]
    asks, no_tokenizer = teachers_reader(manifest, model)
    with progress("Verifying", len(manifest.shards), "shards") as advance:
        found = verify_cache(cache, asks=asks, no_tokenizer=no_tokenizer, advance=advance)
    faults, again = found.faults, None
    if read_manifest(cache) != manifest:
        faults.append(Fault(MANIFEST, "was exchanged while the cache was being checked"))
    if rescore and not faults:
        teacher = model or named_teacher(manifest)
        quieten_libraries()
        again = in_own_process(rescored, cache, rescore, teacher, engine)
        if again["max_abs_difference"] > tolerance:
            faults.append(Fault("rescored rows", f"differ by more than {tolerance} from the teacher's logits"))
    note_rescoring(manifest, found, again)
    report: dict[str, Any] = {
        "cache_id": manifest.cache_id,
        "rows": manifest.rows,
        "signatures": signatures,
        "trusted_key": signer,
        **asdict(found),
    }
    if again:
        report["rescored"] = again
    if as_json:
        print_json(report)
    else:
        print_report(cache, manifest, found, again)
        for each in signatures:
            told = " (trusted)" if each["key"] == signer else ""
            say(f"Signed by {each['key']}{told}" if each["fits"] else f"The signature of {each['key']} does not fit.")
    if faults:
        raise CacheError(
            f"{cache} has {len(faults)} faults, the first: {faults[0].shard}: {faults[0].message}",
            "It is not what was captured.",
            "Fetch it again from where it came, or capture it anew into another folder.",
        )


def named_teacher(manifest: Manifest) -> str:
    """The teacher as the manifest names it. Raises ModelError unless that is a folder here."""
    if not local_teacher(manifest):
        raise ModelError(
            f"The teacher {manifest.provenance.model} is not here.",
            "What a manifest names is not fetched by itself: whoever sent the cache chose it.",
            "Name the teacher's folder or hub name with --model.",
        )
    return manifest.provenance.model


def teachers_reader(manifest: Manifest, model: str | None) -> tuple[Asks | None, str]:
    """What tells whether token ids hold a query, by the tokenizer of the teacher; or None, and why there is none.

    Looked for in `model`, or in the folder that the manifest names, and used only if it is the one of the fingerprint.
    Raises ModelError if `model` is given and holds none.
    """
    folder = Path(model) if model else local_teacher(manifest)
    if not folder or not (model or (folder / "config.json").is_file()):
        return None, "the teacher's tokenizer is not here; --model names its folder"
    quieten_libraries()
    from stages.language_model.folder import hash_tokenizer, load_tokenizer, resolve_model

    try:
        tokenizer = load_tokenizer(resolve_model(str(folder)))
    except ModelError:
        if model:
            raise
        return None, f"{folder}, which the manifest names, holds no usable tokenizer; --model names another folder"
    if hash_tokenizer(tokenizer) != manifest.fingerprint.tokenizer_sha256:
        return None, f"{folder} has another tokenizer than the teacher"

    def asks(token_ids: Sequence[int], query: str) -> bool:
        prompt = plain(tokenizer.decode(token_ids))
        if plain(query) in prompt:
            return True
        # A tokenizer may lose accents, capitals or rare characters.
        return plain(tokenizer.decode(tokenizer.encode(query, add_special_tokens=False))) in prompt

    return asks, ""


def plain(text: str) -> str:
    """The text without what templates and tokenizers change about it: spaces, and how characters are composed."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def note_rescoring(manifest: Manifest, found: Findings, again: dict[str, Any] | None) -> None:
    """Add to the findings what asking the teacher again has shown, or why the cache does not show it."""
    is_merged = len(manifest.provenance.derived_from) > 1
    if again:
        found.checked.append(f"the logits of {again['rows']} of {manifest.rows} rows, asked again")
        if manifest.fingerprint.teacher_prompts_sha256 and not is_merged:
            found.checked.append("teacher_prompts_sha256")
            return
    else:
        why = "only the teacher can tell: --rescore N asks it again"
        if is_merged and not manifest.prefix.token_ids:
            why = "it was merged from several prefixes: verify the caches that it was made of with --rescore"
        found.not_checked.append(Unchecked("the logits", why))
    why = "it was merged" if is_merged else "what the teacher read stands in no row: --rescore N makes it again"
    found.not_checked.append(Unchecked("teacher_prompts_sha256", why))


def print_report(cache: Path, manifest: Manifest, found: Findings, again: dict[str, Any] | None) -> None:
    """For people."""
    if found.faults:
        places = [(fault.shard, fault.message) for fault in found.faults]
        print_table(f"{len(places)} faults", ["where", "what"], places, left=2)
    else:
        say(f"{cache}: {manifest.rows} rows in {len(manifest.shards)} shards, no fault in what was checked.")
    say("Checked:\n" + "\n".join(f"  {each}" for each in found.checked))
    say("Not checked:\n" + "\n".join(f"  {each.what}: {each.why}" for each in found.not_checked))
    if again:
        say(
            f"{again['rows']} rows asked again ({again['engine']}): max |Δ| {again['max_abs_difference']:.2e}, "
            f"the same Top-K set at {again['same_set']:.1%} of {again['positions']} positions."
        )


def rescored(cache: Path, count: int, model: str, name: EngineName) -> dict[str, Any]:
    """Ask the teacher `count` rows again, spread over the cache, and compare the logits of the candidates both list.

    The teacher's prompt is rebuilt from the row's query and the prefix tokens in the manifest.
    """
    quieten_libraries()
    import numpy as np

    from stages.language_model.engine import EngineOptions, shared_length, start_engine
    from stages.language_model.folder import end_of_turn_ids, hash_weights, load_tokenizer, resolve_model
    from stages.logit_cache.reader import LogitCache

    opened = LogitCache(cache)
    fingerprint = opened.manifest.fingerprint
    teacher = resolve_model(model)
    if hash_weights(teacher) != fingerprint.teacher_sha256:
        raise ModelError(f"{teacher} is not the model that was captured.", "Its logits would prove nothing.")
    rows = [opened.row(int(i)) for i in np.unique(np.linspace(0, len(opened) - 1, count).round())]
    asked = [row.student_input_ids.tolist() for row in opened.rows() if row.split == "forget"]
    behind = meeting_place(opened.manifest.prefix.token_ids, asked[0][: shared_length(asked)])

    def rebuilt(row: Row) -> list[int]:
        return teacher_prompt(opened.manifest, row.split, row.student_input_ids.tolist(), *behind)

    prompts = [rebuilt(row) for row in rows]
    is_merged = len(opened.manifest.provenance.derived_from) > 1
    promised = fingerprint.teacher_prompts_sha256
    if promised is not None and not is_merged and hash_prompts(map(rebuilt, opened.rows())) != promised:
        raise CacheError(
            f"The teacher's prompts of {cache} cannot be made again from its prefix and its rows.",
            "Its chat template puts something behind the query. Another prompt would prove nothing, so nothing was asked.",
            "Capture the same rows again beside it, and compare:  duet cache diff",
        )
    options = EngineOptions(
        model=teacher,
        dtype=fingerprint.dtype,
        context_length=max(map(len, prompts)) + fingerprint.positions,
        # A cache of version 1 does not say which they were.
        stop_ids=fingerprint.stop_ids
        if fingerprint.stop_ids is not None
        else tuple(end_of_turn_ids(teacher, load_tokenizer(teacher))),
    )
    engine = start_engine(name, options)
    said = engine.continue_greedily(prompts, max_tokens=fingerprint.positions, top_k=fingerprint.top_k)
    worst, same, positions = 0.0, 0, 0
    for row, again in zip(rows, said, strict=True):
        # Once a near-tie has been decided otherwise, the teacher reads another text.
        for t in range(min(len(row.response_ids), len(again.token_ids))):
            _, mine, theirs = np.intersect1d(row.topk_ids[t], again.topk_ids[t], True, True)
            differences = np.abs(row.topk_logits[t][mine] - again.topk_logits[t][theirs])
            worst = max(worst, float(differences.max(initial=0.0)) if len(mine) else float("inf"))
            same += len(mine) == fingerprint.top_k
            positions += 1
            if row.response_ids[t] != again.token_ids[t]:
                break
    return {
        "rows": len(rows),
        "positions": positions,
        "engine": engine.name,
        "max_abs_difference": worst,
        "same_set": same / positions,
    }


def meeting_place(prefix_ids: Sequence[int], shared_ids: Sequence[int]) -> tuple[list[int], int]:
    """What the teacher read before a student's prompt, and from which of the student's tokens on it read those.

    prefix_ids: with which all forget rows' teacher prompts begin; shared_ids: with which their student prompts do. Both end
    with what all forget queries begin with, which retain queries do not: the prefix ends where the longest end of
    prefix_ids begins that stands in shared_ids as well.
    """
    longest, place = 0, len(shared_ids)
    for end in range(len(shared_ids), 0, -1):
        pairs = zip(reversed(prefix_ids), reversed(shared_ids[:end]), strict=False)
        alike = next((at for at, (one, other) in enumerate(pairs) if one != other), min(end, len(prefix_ids)))
        if alike > longest:
            longest, place = alike, end - alike
    return list(prefix_ids[: len(prefix_ids) - longest]), place


def teacher_prompt(
    manifest: Manifest, split: str, student_ids: list[int], before_ids: list[int], place: int
) -> list[int]:
    """The tokens that the teacher read: before_ids, then the student's from `place` on (`meeting_place`).

    Raises CacheError where the manifest does not say which prefix stood before the row, as in a merged cache.
    """
    fingerprint = manifest.fingerprint
    if fingerprint.prefix_sha256 == NO_PREFIX or (split == "retain" and not fingerprint.prefix_on_retain):
        return student_ids
    if not manifest.prefix.token_ids:
        raise CacheError(
            "The cache was merged from several prefixes, so its rows cannot be asked again.",
            "The prefix of each row is known only in the caches that it was merged from.",
            "Verify those with --rescore.",
        )
    return before_ids + student_ids[place:]
