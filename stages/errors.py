"""The one error tree. An expected failure says what was found, what was needed, and what to do next."""


class DuetError(Exception):
    """An expected failure, shown without a traceback.

    found: one line, what is wrong and where.
    needed: what would have been right, and what was therefore not done.
    next_step: the command or the edit that gets the user on.
    """

    exit_code = 1

    def __init__(self, found: str, needed: str = "", next_step: str = "") -> None:
        # All three go to Exception, so that the error survives a trip between processes.
        super().__init__(found, needed, next_step)
        self.found = found
        self.needed = needed
        self.next_step = next_step

    def __str__(self) -> str:
        return "\n  ".join(part for part in (self.found, self.needed, self.next_step) if part)


class SettingsError(DuetError):
    """A settings file or a `--set` that cannot be used."""

    exit_code = 2


class DataError(DuetError):
    """A query file, a question file or a prefix that cannot be used."""


class ModelError(DuetError):
    """A model folder that cannot be used."""


class EngineError(DuetError):
    """An inference engine that cannot give what was asked of it."""


class CacheError(DuetError):
    """A logit cache that is unfinished, damaged or not to be trusted."""


class CacheMismatch(CacheError):
    """A sound cache that belongs to another model, tokenizer or plan."""


class TrainingError(DuetError):
    """A training run that cannot start or must not go on."""


class OutputUnwritable(DuetError):
    """A place for results where nothing can be written."""


class Stopped(DuetError):
    """A run that was asked to stop and can go on: nothing is wrong. The code is EX_TEMPFAIL, "try again"."""

    exit_code = 75


class OutputExists(DuetError):
    """An output folder that already holds something else."""
