"""`python -m pipeline` is `duet`: the first thing that runs, so that a signal during the imports is one message, too."""

import os
import signal
import sys

# Until the signals have their handlers, some milliseconds from here, SIGINT ends the process without a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from stages.interruption import code_of, end_quietly, listen, open_standard_streams


def main() -> None:
    """Run the command line of this process."""
    open_standard_streams()
    listen()
    try:
        from pipeline.cli import duet
    # Wide on purpose: a library may turn the signal's exception into one of its own. All else goes on.
    except BaseException as error:
        code = code_of(error)
        if code is None:
            raise
        os.write(2, b"Error: Stopped before the command began: nothing was written.\n")
        end_quietly(code)
        sys.exit(code)
    duet()


if __name__ == "__main__":
    main()
