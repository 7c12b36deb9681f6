"""JSON that somebody else wrote in, a typed model out, and little memory whatever it holds.

Bounds come before parsing, parsing before validating, and validating stops at the first fault: a few megabytes of brackets
would otherwise become gigabytes of objects, and of error messages about them.
"""

import json
import math
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Element = TypeVar("Element")
# Fields of many elements, validated to the first fault: each further one would be a message of a kilobyte.
List = Annotated[list[Element], Field(fail_fast=True)]
Many = Annotated[tuple[Element, ...], Field(fail_fast=True)]
# Room for a manifest of 16 000 shards (plan.MOST_SHARDS). Parsed, no JSON of this size comes to 200 MB.
MOST_BYTES = 8 * 2**20
# Each takes 20 times its room in the file, and a shard needs one.
MOST_CONTAINERS = 100_000
# Far more fields than any model has; an unknown one is a fault each.
MOST_KEYS = 64
MOST_DIGITS = 19
MOST_REASON = 200


class Malformed(ValueError):
    """What is wrong with it, in words that continue "this file is …"."""


def parse_json(content: bytes, *, most_keys: int = MOST_KEYS) -> Any:
    """The value in these bytes, as strict as RFC 8259: no key twice in an object, no NaN, no half of a surrogate pair.

    most_keys: in any one object. Integers have at most MOST_DIGITS digits, other numbers are finite.
    Raises Malformed.
    """
    if len(content) > MOST_BYTES:
        raise Malformed(f"not JSON that is read here ({len(content):,} bytes, at most {MOST_BYTES:,})")
    if content.count(b"[") + content.count(b"{") > MOST_CONTAINERS:
        raise Malformed(f"not JSON that is read here (more than {MOST_CONTAINERS:,} lists and objects)")

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(pairs) > most_keys:
            raise Malformed(f"not JSON that is read here (an object of {len(pairs):,} keys, at most {most_keys:,})")
        if len(found) < len(pairs):
            raise Malformed("not JSON that is read here (a key stands twice in one object)")
        return found

    try:
        # Of bytes, Python would take UTF-16 and UTF-32, too.
        value = json.loads(
            content.decode(),
            object_pairs_hook=object_of,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if re.search(rb"\\u[dD][89a-fA-F]", content):
            # Escapes may come in pairs; half of one is no character, and cannot be written or hashed.
            json.dumps(value, ensure_ascii=False).encode()
    except Malformed:
        raise
    except UnicodeEncodeError as error:
        raise Malformed("not JSON (a text holds half of a surrogate pair)") from error
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({_short(error)})") from error
    return value


def validated(kind: type[Model], value: Any) -> Model:
    """The model of what `parse_json` gave. Raises Malformed with the first fault and its place."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(_short(part) for part in first["loc"]) or "its top"
        raise Malformed(f"malformed at {where}: {_short(first['msg'])}") from error


def parse_model(kind: type[Model], content: bytes, *, most_keys: int = MOST_KEYS) -> Model:
    """`parse_json`, then `validated`."""
    return validated(kind, parse_json(content, most_keys=most_keys))


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS + 1:
        raise Malformed(f"not JSON that is read here (an integer of {len(text):,} digits)")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise Malformed(f"not JSON ({_short(text)} is no finite number)")
    return number


def _short(reason: object) -> str:
    return str(reason)[:MOST_REASON]
