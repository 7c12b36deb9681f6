"""One JSON file of a model folder in, its object out. It may be anybody's file: its size and its depth are bounded."""

import json
from pathlib import Path
from typing import Any

from stages.errors import ModelError

LARGEST_BYTES = 64 << 20  # an index of a million tensors; a config has a few thousand bytes


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, in UTF-8 with or without a byte order mark. Raises ModelError for anything else."""
    if not path.is_file():
        raise _damaged(f"{path} is not there, or is no file.")
    try:
        if (size := path.stat().st_size) > LARGEST_BYTES:
            raise _damaged(f"{path} has {size:,} bytes; at most {LARGEST_BYTES:,} are read.")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise _damaged(f"{path} is nested too deeply to be read.") from error
    except (OSError, ValueError) as error:
        raise _damaged(f"{path} is not JSON: {first_line(error)}.") from error
    if not isinstance(content, dict):
        raise _damaged(f"{path} holds no JSON object.")
    return content


def first_line(error: BaseException) -> str:
    """What a library's error says first, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _damaged(found: str) -> ModelError:
    return ModelError(
        found, "A whole Hugging Face model folder was needed.", "Copy, download or convert the model again."
    )
