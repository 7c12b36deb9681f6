"""How a command that did not come to its end says so: what stopped it, what it has kept, and how to go on.

Exceptions and exit codes in, messages out.
"""

import errno
import os
import re
from collections.abc import Sequence
from shlex import quote

from pipeline.console import flush, has_no_reader, write_error
from stages.errors import OutputUnwritable
from stages.interruption import INTERRUPTED, silence

# What the machine may refuse at any moment, whatever a command does: room, permission, a disk or a file that is gone.
REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE),
    *(errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.EPIPE, errno.EBADF),
}

OS_ERROR = re.compile(r"\(os error (\d+)\)")
SHARDS = "The shards that are finished are kept; nothing half-written counts."
TRAINING = "The newest whole checkpoint is kept, if there was one by then; nothing half-written passes for a model."
WHOLE_OR_NOTHING = "Nothing of this call is kept: what it writes is written whole or not at all."
READS_ONLY = "This command keeps nothing: it only reads."

KEPT = {
    "teacher-cache": SHARDS,
    "distill": TRAINING,
    "finetune": TRAINING,
    "evaluate": WHOLE_OR_NOTHING,
    "audit": "The parts that are measured are kept beside --out, in a folder that ends in .parts.",
    "sweep": "The runs that are finished are kept, and the others as far as their checkpoints go.",
    "prefixes": WHOLE_OR_NOTHING,
    "compare": WHOLE_OR_NOTHING,
    "report": WHOLE_OR_NOTHING,
    "results": WHOLE_OR_NOTHING,
    "default-model": WHOLE_OR_NOTHING,
    "cache slice": SHARDS,
    "cache merge": SHARDS,
    "cache push": "The files that have arrived are kept; without a manifest they pass for no cache.",
    "cache pull": "The files that have arrived are kept; without a manifest they pass for no cache.",
}


def name_of(arguments: Sequence[str]) -> str:
    """The command among the arguments of `duet`, as `KEPT` has it: `distill`, or `cache slice`."""
    words = [word for word in arguments if not word.startswith("-")]
    return " ".join(words[: 2 if words[:1] == ["cache"] else 1])


def stopped(code: int, given: Sequence[str]) -> str:
    """The message of a command that a signal stopped. given: the arguments of `duet`."""
    signal = "SIGINT" if code == INTERRUPTED else "SIGTERM"
    return "\n  ".join((f"Stopped by {signal}.", *_kept(given)))


def refusal_in(error: BaseException) -> OSError | None:
    """The machine's refusal that an error is, or that safetensors tells of in words of its own; None if it is none."""
    if isinstance(error, OSError):
        return error if error.errno in REFUSALS else None
    told = OS_ERROR.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    number = int(told[1]) if told else None
    return OSError(number, os.strerror(number), "A file of weights") if number in REFUSALS else None


def refused(error: OSError, given: Sequence[str]) -> OutputUnwritable:
    """The error of a command that the machine refused something, which may happen at any moment of it."""
    # Nothing is written to a file without its name, but to stdout.
    where = error.filename if error.filename is not None else "stdout or another open file"
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    kept, again = _kept(given)
    return OutputUnwritable(f"{where} cannot be read or written ({reason}).", kept, f"Mend that first. {again}")


def nobody_reads(error: BaseException) -> bool:
    """Whether the error is that stdout is a pipe whose reader has gone, as `| head` does: nothing is wrong, and nothing said."""
    if not isinstance(error, BrokenPipeError):
        return False
    return has_no_reader()


def tell(message: str) -> None:
    """Say it on stderr, if anything can be said there."""
    if not message:
        return
    try:
        write_error(message)
    except OSError:
        silence(2)


def flush_stdout() -> None:
    """Write what the interpreter holds back, or drop it: at its end it would only complain."""
    try:
        flush()
    except (OSError, ValueError):
        silence(1)


def _kept(given: Sequence[str]) -> tuple[str, str]:
    kept = KEPT.get(name_of(given), READS_ONLY)
    what = "It begins anew with" if kept in (WHOLE_OR_NOTHING, READS_ONLY) else "It goes on with"
    return kept, f"{what}:  {' '.join(['duet', *map(quote, given)])}"
