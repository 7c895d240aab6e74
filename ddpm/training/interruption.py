"""SIGTERM and Ctrl-C: finish the step, save, say how to go on."""

import signal
import sys
from types import FrameType
from typing import Self


class Interruption:
    """While it is open, remembers the first signal that asks this process to stop; a second one ends it at once.

    Attributes:
        requested: number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = number
        self._restore()
        print(f"\n{signal.Signals(number).name}: finishing this step and saving", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
