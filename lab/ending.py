"""How commands end."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

STOPPED = "Stopped. The same command goes on."
FAILED = 3  # exit status of a command that did all it could, when some of it couldn't be done


def import_torch() -> None:
    """Import PyTorch, which takes seconds and loses exceptions: so long Ctrl-C and SIGTERM end the
    process, and then they raise KeyboardInterrupt."""

    def leave(*_: Any) -> None:
        print(STOPPED, file=sys.stderr, flush=True)
        os._exit(1)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    listen(leave)
    import torch  # noqa: F401

    listen(stop)


def listen(handler: Callable[..., None]) -> None:
    """To Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have had the first ignored
        signal.signal(number, handler)
