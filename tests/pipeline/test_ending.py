"""What the machine refuses is one message, whichever command and moment; nothing but that is a traceback."""

import errno
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from conftest import ROOT

from pipeline.cli import DuetGroup


def shell(redirection: str) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -m pipeline settings {redirection}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">/dev/full", 1, "Error: stdout or another open file cannot be read or written (No space left on device)."),
        (">&-", 0, ""),
        ("2>&- >/dev/full", 1, ""),
        ("2>/dev/full >/dev/full", 1, ""),
        ("| head -1 >/dev/null; exit ${PIPESTATUS[0]}", 1, ""),
    ],
)
def test_a_stdout_that_takes_nothing_is_one_message_or_none(redirection: str, code: int, message: str) -> None:
    result = shell(redirection)

    assert result.returncode == code
    assert result.stderr.splitlines()[:1] == ([message] if message else [])
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def ended(error: BaseException, *options: str) -> tuple[int, str]:
    """Exit code and stderr of a command `report` that raises this."""

    @click.group(cls=DuetGroup)
    @click.option("--debug", is_flag=True)
    def duet(debug: bool) -> None:
        pass

    @duet.command()
    def report() -> None:
        raise error

    result = CliRunner().invoke(duet, [*options, "report"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ELOOP, errno.EIO]
)
def test_a_refusal_of_the_machine_names_path_and_reason(number: int) -> None:
    code, said = ended(OSError(number, os.strerror(number), "runs/x/report.html"))

    assert code == 1
    assert said == (
        f"Error: runs/x/report.html cannot be read or written ({os.strerror(number)}).\n"
        "  Nothing of this call is kept: what it writes is written whole or not at all.\n"
        "  Mend that first. It begins anew with:  duet report\n"
    )


def test_debug_shows_the_traceback_as_well() -> None:
    _, said = ended(OSError(errno.ENOSPC, "No space left on device", "x"), "--debug")

    assert "Traceback" in said and "Error: x cannot be read or written" in said


@pytest.mark.parametrize("error", [OSError("no number"), ValueError("a fault of ours"), OSError(errno.EINVAL, "odd")])
def test_any_other_fault_is_left_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)):
        ended(error)


def test_safetensors_tells_of_a_full_disk_in_its_own_words() -> None:
    from safetensors import SafetensorError

    text = "Error while serializing: I/O error: No space left on device (os error 28)"

    assert "A file of weights cannot be read or written (No space left on device)." in ended(SafetensorError(text))[1]


def test_an_interrupted_command_ends_with_130_and_says_what_it_has_kept() -> None:
    code, said = ended(KeyboardInterrupt())

    assert code == 130
    assert said.startswith("Error: Stopped by SIGINT.\n  Nothing of this call is kept")
