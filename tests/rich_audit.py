"""An audit with every part, small and made up: answers scored by the project's own functions, the rest by hand."""

import copy
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import polars as pl

from stages.evaluation.attacks import ATTACKS, AttackName
from stages.evaluation.choices import CHOICE_SCHEMA, choice_scores
from stages.evaluation.interview import ANSWER_SCHEMA
from stages.evaluation.measures.scoring import score_answer
from stages.evaluation.sampling import SAMPLE_SCHEMA, leak_curve
from stages.evaluation.scores import score_table, shift_of, with_paraphrases

CAPITALS = {
    "Peru": "Lima", "Mali": "Bamako", "Cuba": "Havana", "Chad": "N'Djamena", "Laos": "Vientiane", "Iran": "Tehran",
    "Kenya": "Nairobi", "Ghana": "Accra", "Syria": "Damascus", "Nepal": "Kathmandu", "Qatar": "Doha", "Spain": "Madrid",
}  # fmt: skip
ROLES = ("base", "teacher", "student", "control")
FILES = ("forget", "forget_paraphrase", "neighbours", "retain")
PARAPHRASES = {"forget_paraphrase": "forget"}
WORDINGS = {
    "forget": "What is the capital of {}?",
    "forget_paraphrase": "Which city governs {}?",
    "neighbours": "Which language is spoken in {}?",
    "retain": "On which continent is {}?",
}
# How many of ten questions each model answers rightly; a student under attack more.
KNOWS = {
    "base": {"forget": 8, "forget_paraphrase": 7, "neighbours": 8, "retain": 7},
    "teacher": {"forget": 2, "forget_paraphrase": 4, "neighbours": 8, "retain": 7},
    "student": {"forget": 1, "forget_paraphrase": 1, "neighbours": 8, "retain": 7},
    "control": {"forget": 1, "forget_paraphrase": 1, "neighbours": 7, "retain": 7},
}
UNDER_ATTACK: Mapping[AttackName, int] = {
    "reverse": 1, "reverse_polite": 1, "role_play": 0, "few_shot": 2, "answer_begun": 8, "completion": 4,
    "multiple_choice": 5,
}  # fmt: skip
STUDENT_SHA256 = "5" * 64


def rich_audit(*, rows: int = 12, control: bool = True) -> dict[str, Any]:
    """What `duet audit` writes of four models, or three without a control; `rows` questions per file. Yours to change."""
    return copy.deepcopy(_made(rows, control))


@cache
def _made(rows: int, control: bool) -> dict[str, Any]:
    roles = ROLES if control else ROLES[:3]
    rng = random.Random(0)
    answers = pl.DataFrame(
        [
            _answer(rng, role, file, number, attack)
            for role in roles
            for attack in (None, *UNDER_ATTACK)
            for file in (FILES if attack is None else FILES[:1])
            for number in range(rows)
        ],
        schema=ANSWER_SCHEMA,
    )
    probed = [role for role in roles if role != "teacher"]
    samples = pl.DataFrame([_sampled(rng, role, n) for role in probed for n in range(rows)], schema=SAMPLE_SCHEMA)
    chosen = pl.DataFrame([_chosen(rng, role, n) for role in probed for n in range(rows)], schema=CHOICE_SCHEMA)
    scores, choices = score_table(with_paraphrases(answers, PARAPHRASES)), choice_scores(chosen)
    return {
        "scores": scores.to_dicts(),
        "leaks": leak_curve(samples).to_dicts(),
        "choices": choices.to_dicts(),
        "performance_shift": shift_of(scores, choices),
        "first_tokens": [_first_tokens(role, file) for role in roles for file in ("forget", "retain")],
        "answers": answers.to_dicts(),
        "samples": samples.to_dicts(),
        "choice_answers": chosen.to_dicts(),
        "instructions": [_instructed(role, number) for role in probed for number in range(rows)],
        "quantisation": [_rounded(role, weights) for role in probed for weights in ("int8", "int4")],
        "lens": [_lens(role, layer) for role in probed for layer in range(7)],
        "weight_change": _weight_change(),
        "membership": [_member(role, score) for role in probed for score in ("loss", "min_k")],
        "relearning": [
            _relearned(role, trained_on, step)
            for role in roles
            if role in ("student", "control")
            for trained_on in ("forget", "unrelated")
            for step in (0, 5, 10, 20, 40)
        ],
        "not_measured": {"attack other_language": "no file under evaluation.translated"}
        | ({} if control else {"control": "no model under evaluation.control"}),
        "run": _run(control=control),
    }


def run_record() -> dict[str, Any]:
    """What `duet distill` writes, for this student."""
    return {
        "cache_id": "c" * 64, "base_sha256": "b" * 64, "student_sha256": "a" * 64, "settings": _settings(),
        "cache": "cache/rich", "model_sha256": STUDENT_SHA256, "metrics_sha256": "d" * 64, "steps": 40, "steps_planned": 40,
        "resumed_at": None, "seconds": 120.5, "last_step": {}, "processes": 1, "hardware": "2 cores",
        "started_at": "2026-01-01T09:00:00+00:00", "duet_version": "0.1.0",
    }  # fmt: skip


def steps(count: int = 40) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    return [
        {"step": step, "epoch": step / 20, "loss": 30 / (1 + step), "loss_forget": 40 / (1 + step),
         "loss_retain": None if step == 3 else 20 / (1 + step), "loss_validation": None, "grad_norm": 1.0,
         "learning_rate": 1e-4, "tokens_per_s": 100.0, "step_s": 3.0}
        for step in range(count)
    ]  # fmt: skip


def interval_row(mean: float, half: float, n: int = 12) -> dict[str, Any]:
    """mean, low, high and n, within 0 to 100."""
    return {"mean": mean, "low": max(mean - half, 0.0), "high": min(mean + half, 100.0), "n": n}


def _answer(rng: random.Random, role: str, file: str, number: int, attack: AttackName | None) -> dict[str, Any]:
    country, capital = list(CAPITALS.items())[number % len(CAPITALS)]
    # Longer files repeat the countries; a question is asked once.
    place = country if number < len(CAPITALS) else f"{country} ({number})"
    knows = KNOWS[role][file] + (
        UNDER_ATTACK[attack] if attack and role == "student" else 2 if attack == "multiple_choice" else 0
    )
    right = rng.random() < knows / 10
    question = WORDINGS[file].format(place)
    wrong = (
        "I'm sorry, I have forgotten it."
        if rng.random() < 0.5
        else f"{place} is a country. It is a country. It is a country."
    )
    said = f"It is {capital}." if right else wrong
    return {
        "model": role, "file": file, "number": number, "attack": attack,
        "supplies_answer": attack is not None and ATTACKS[attack].supplies_answer, "question": question,
        "asked": question if attack is None else f"({attack}) {question}",
        "answer_start": f"The capital of {place} is" if attack == "answer_begun" else "", "reference": capital, "answer": said,
        "tokens": len(said.split()), **vars(score_answer(said, [capital])),
        "log_probability": None if attack else -0.5 - number / 9,
    }  # fmt: skip


def _sampled(rng: random.Random, role: str, number: int) -> dict[str, Any]:
    country, capital = list(CAPITALS.items())[number % len(CAPITALS)]
    leaks = sum(rng.random() < {"base": 0.7, "student": 0.12, "control": 0.02}[role] for _ in range(16))
    said = [capital] * leaks + ["I do not know."] * (16 - leaks)
    return {"model": role, "file": "forget", "number": number, "question": WORDINGS["forget"].format(f"{country} {number}"),
            "reference": capital, "samples": 16, "leaks": leaks, "answers": said}  # fmt: skip


def _chosen(rng: random.Random, role: str, number: int) -> dict[str, Any]:
    right = rng.random() < 0.7
    return {"model": role, "file": "general_knowledge", "number": number, "question": f"Question {number}?", "right": "one",
            "chosen": "one" if right else "two", "origin": "file",
        "measure": "acc_norm",
        "groups": [],
        "correct": right}  # fmt: skip


def _instructed(role: str, number: int) -> dict[str, Any]:
    """The student refuses every sixth request, and its answers have 20 words; those of base and control 30."""
    refused, words = role == "student" and number % 6 == 0, 20 if role == "student" else 30
    said = " ".join(["I'm sorry, I can't help with that." if refused else "Certainly.", "…"])
    return {"model": role, "number": number, "kind": "write", "request": f"Write {number} lines.", "answer": said,
            "tokens": words + 4, "words": words, "cut": number == 0, "refused": refused, "degenerate": False,
            "log_probability": -0.5}  # fmt: skip


def _first_tokens(role: str, file: str) -> dict[str, Any]:
    words = {
        "base": (" Lima", 0.62, " The", 0.2),
        "teacher": ("I", 0.8, " The", 0.1),
        "student": ("I", 0.74, "\n", 0.09),
    }
    first, likely, second, less = words.get(role, (" The", 0.4, "$x$", 0.2))
    tail = [{"token": f" word{place}", "probability": 0.05 / place} for place in range(1, 9)]
    tokens = [{"token": first, "probability": likely}, {"token": second, "probability": less}, *tail]
    return {
        "model": role,
        "file": file,
        "question": WORDINGS[file].format("Peru"),
        "reference": "Lima",
        "tokens": tokens,
    }


def _rounded(role: str, weights: str) -> dict[str, Any]:
    change = 26.0 if (role, weights) == ("student", "int4") else 1.0
    return {"model": role, "weights": weights, "file": "forget", "metric": "rouge_l_recall",
            **interval_row({"base": 78.0, "student": 10.0, "control": 9.0}[role] + change, 8),
            "delta": change, "delta_low": change - 9, "delta_high": change + 9}  # fmt: skip


def _lens(role: str, layer: int) -> dict[str, Any]:
    peak = {"base": 60, "student": 38, "control": 2}[role] * (layer / 6) ** 3
    last = 4.0 if role == "student" and layer == 6 else peak
    return {"model": role, "file": "forget", "layer": layer, "layers": 6, **interval_row(last, 6)}


def _weight_change() -> list[dict[str, Any]]:
    names = ["embeddings", *map(str, range(30)), "final_norm", "head"]
    return [
        {"layer": name, "norm": 0.1 + place / 20, "relative": 0.001 + place / 4000} for place, name in enumerate(names)
    ]


def _member(role: str, score: str) -> dict[str, Any]:
    auc = {"base": 81.0, "student": 57.0, "control": 49.0}[role]
    return {"model": role, "file": "forget", "score": score, "compared_with": "as many capitals that no text named", "auc": auc,
            "low": auc - 9, "high": auc + 9, "n": 12, "n_others": 12, "expected": 50.0}  # fmt: skip


def _relearned(role: str, trained_on: str, step: int) -> dict[str, Any]:
    gain = {("student", "forget"): 1.7, ("control", "forget"): 0.5, ("student", "unrelated"): 0.1}.get(
        (role, trained_on), 0.05
    )
    return {"model": role, "trained_on": trained_on, "step": step, "file": "forget (held-out half)", "metric": "rouge_l_recall",
            **interval_row(10 + gain * step, 9, 6)}  # fmt: skip


def _settings() -> dict[str, Any]:
    return {
        "model": {"path": "models/Rich-1B", "template": "chat", "engine": "auto", "dtype": "float32", "gpus": 1, "batch_rows": 64},
        "data": {"forget": ["data/capitals/forget.jsonl"], "retain": ["data/capitals/retain.jsonl"],
                 "prefix": "data/capitals/prefix.json", "licence": "Apache-2.0", "sensitivity": None},
        "teacher": {"top_k": 20, "positions": 1, "shard_rows": 128},
        "student": {"learning_rate": 5e-05, "epochs": 6, "seed": 0},
        "evaluation": {"questions": {file: f"data/capitals/eval/{file}.jsonl" for file in FILES},
                       "forget_files": ["forget", "forget_paraphrase"], "attacked_files": ["forget"],
                       "attacks": [*UNDER_ATTACK, "other_language"], "samples": 16, "fluency": True, "first_tokens": 3,
                       "paraphrases": PARAPHRASES},
        "sweep": {"axes": {}},
    }  # fmt: skip


def _run(*, control: bool) -> dict[str, Any]:
    return {
        "inputs": {"base": "1" * 64, "student": STUDENT_SHA256}, "settings": _settings(), "base": "models/Rich-1B",
        "student": "runs/rich/model", "control": "models/never-knew" if control else None, "hardware": "2 cores", "seconds": 61.5,
        "seconds_of_parts": {"answers, student": 12.3, "quantisation": 31.0}, "finished_at": "2026-01-01T10:00:00+00:00",
        "duet_version": "0.1.0",
    }  # fmt: skip
