"""The command `kd`, from its first moment on: an interrupt is a line and exit code 130, whatever is being imported.

It imports next to nothing itself.
"""

import atexit
import os
import signal
import sys

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without loading typing
if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130  # the exit code
STOPPED = "stopped; the same command goes on from here"


def main() -> None:
    """The entry point. As long as a command has nothing to bring to an end, an interrupt ends it at once."""
    on_interrupt(stop)
    code: list[int] = []
    # comes last; Python itself may end otherwise, where an interrupt came in the middle of an import
    atexit.register(lambda: os._exit(code[0]) if code else None)
    from .cli import main

    if main() == INTERRUPTED:
        code.append(INTERRUPTED)
        sys.exit(INTERRUPTED)


def on_interrupt(do: "Callable[[int, object], None]") -> None:
    """Let SIGINT and SIGTERM do this, unless they are ignored, as in a command that runs in the background."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, do)


def stop(signum: int, frame: object) -> None:
    """End this process with a line and exit code 130, and with nothing else."""
    os.write(2, f"\n{STOPPED}\n".encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
