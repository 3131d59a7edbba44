"""`repairkit` and `python -m repairkit`: the command line.

Nothing is imported from the working folder. Python puts that folder before all that is installed.
Only what is loaded already is imported here before it is taken off again.
"""

import os
import signal
import sys

if not sys.flags.safe_path and os.path.realpath(sys.path[0]) == os.path.realpath(""):
    del sys.path[0]


def main() -> None:
    """The command line. Ctrl-C while it is still being imported ends it without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from repairkit.cli import main as command_line

    signal.signal(signal.SIGINT, before)
    command_line()


if __name__ == "__main__":
    main()
