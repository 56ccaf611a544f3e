"""`metarl`, and `python -m metarl`."""

import signal
import sys


def run() -> int:
    """Run the command line; returns the exit code."""
    # Until the program takes signals itself, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from metarl.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
