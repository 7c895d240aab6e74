"""SIGTERM and Ctrl-C: finish the step, save, say how to go on."""

import signal
import sys
import time
from types import FrameType
from typing import Self

# A launcher passes a Ctrl-C on to processes that the terminal has already told; a person's second one comes later.
ECHO_SECONDS = 2.0


class Interruption:
    """While it is open, remembers the first signal that asks this process to stop.

    A second Ctrl-C ends the process at once. Any other signal after the first is an echo of it and changes nothing.

    Attributes:
        requested: number of the first signal, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._since = 0.0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = number, time.monotonic()
            print(f"\n{signal.Signals(number).name}: finishing this step and saving", file=sys.stderr, flush=True)
        elif number == signal.SIGINT and time.monotonic() - self._since > ECHO_SECONDS:
            raise KeyboardInterrupt
