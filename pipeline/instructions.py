"""The everyday requests of an audit: settings and a model in, its answers out; and a hash of all that determines them."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pipeline.console import progress, quieten_libraries
from pipeline.prompting import prompter_for
from pipeline.session import start_for
from pipeline.settings import Settings
from stages.evaluation.questions import Request, load_requests
from stages.logit_cache.fingerprint import sha256_json

if TYPE_CHECKING:
    from stages.evaluation.interview import ModelRole

SHORTEN = "Shorten that request or set evaluation.request_tokens lower."


def requests_of(settings: Settings) -> list[Request]:
    """The requests that the settings name; none if they name no file. Raises DataError as `load_requests` does."""
    path = settings.evaluation.requests
    return load_requests(path) if path else []


def instructions_inputs(settings: Settings) -> str:
    """Hash of all that determines the answers beside the models: what is asked, and how much may be said."""
    asked = [each.model_dump(mode="json") for each in requests_of(settings)]
    return sha256_json({"requests": asked, "tokens": settings.evaluation.request_tokens})


def hear_requests(
    settings: Settings, model: Path, role: "ModelRole | None", earlier: pl.DataFrame, scores: bool
) -> pl.DataFrame:
    """The earlier answers and those of this model to every request. For a process of its own.

    role: None asks nothing, to score others only. scores: the model is the base, and all answers get their likelihood.
    Raises SettingsError if a request is longer than the model reads.
    """
    quieten_libraries()
    from stages.evaluation.instructions import answer_requests, longest_request, unscored, with_likelihoods

    asked, requests, prompter = settings.evaluation, requests_of(settings), prompter_for(settings, model)
    needed = longest_request(prompter, requests) + asked.request_tokens
    engine = start_for(settings, model, needed, advice=SHORTEN)
    answers = earlier
    if role is not None:
        with progress(f"requests: {role} ({engine.name})", len(requests), "requests") as advance:
            said = answer_requests(
                engine,
                prompter,
                requests,
                role=role,
                max_tokens=asked.request_tokens,
                refusals=asked.refusals,
                advance=advance,
            )
        answers = pl.concat([earlier, said])
    if scores:
        with progress(f"fluency of requests: base ({engine.name})", len(unscored(answers)), "answers") as advance:
            answers = with_likelihoods(engine, prompter, answers, advance=advance)
    return answers
