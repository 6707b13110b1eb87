"""The entry point: `lab`, and `python -m lab`. It imports the rest only when Ctrl-C is taken care of."""

import os
import signal
from types import FrameType

from lab.errors import COULD_NOT_MEASURE


def main() -> None:
    """Run the command. Its imports take about a second, in which nothing is begun that had to be ended in order."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, _leave)
    from lab import cli

    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End at once: an exception amid an import may come out of it as any other."""
    os.write(2, b"lab: Interrupted.\n")
    os._exit(COULD_NOT_MEASURE)


if __name__ == "__main__":
    main()
