"""Heartbeats, by which processes that wait for each other tell one that works for long from one that has died."""

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NoReturn

import torch.distributed
from torch.distributed import PrefixStore, Store

from ddpm.one_line import print_error

ENDED = "ended"         # in place of the next heartbeat
MISSED = 4              # number of heartbeats after which a process is suspected of having broken a connection
# What this process does before a missing one ends it, such as completing a file; each takes a minute at most.
BEFORE_END: list[Callable[[], object]] = []
CONTINUE = "the same command continues with what is saved"


class Heartbeat:
    """Heartbeats of this process, and a watch over those of the others.

    Each process counts in a key of the store of the process group. All compare the counts of the others with their own
    earlier reading of them, and never clocks of different machines. A process ends with one line once the count of
    another one, or the store itself, has not changed for the timeout, wherever it waits then.

    Args:
        processes: (rank, number of processes).
        timeout: in seconds.
    """

    def __init__(self, processes: tuple[int, int], timeout: float) -> None:
        self.rank, self.size = processes
        self.timeout = timeout
        self._interval = min(2.0, timeout / 10)
        # A client of the store does one thing at a time, and an answer may take long; so each thread has its own.
        self._store, self._beats = (self._connect() for _ in range(2))
        self._keys = [f"beat/{rank}" for rank in range(self.size)]
        self._clock = 0.0                   # seconds of watching, without those in which this process stood still
        self._heard = [0.0] * self.size     # when each count changed
        self._left: list[int] = []          # the processes that have said that they end
        self._meetings = 0
        self._leaving = threading.Event()
        self._ending = threading.Lock()
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._beat, self._watch)]
        self._beats.set(self._keys[self.rank], "0")

    def start(self) -> None:
        """Begin to beat and to watch, once all processes have made their objects of this class."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Tell the others that this process ends, and stop watching them."""
        self._leaving.set()
        for thread in self._threads:
            thread.join(timeout=self._interval + 1)      # the store may not answer any more

    def meet(self) -> None:
        """Wait until all processes have called this as often; end this process if one of them never will."""
        self._meetings += 1
        arrived, complete = (f"{key}/{self._meetings}" for key in ("arrived", "complete"))
        try:
            if self._store.add(arrived, 1) == self.size:
                for key in ("arrived", "complete") if self._meetings > 1 else ():       # which all have left
                    self._store.delete_key(f"{key}/{self._meetings - 1}")
                self._store.set(complete, "")
            while not self._has(complete):
                if self._left and not self._store.check([complete]):
                    self.end(self._describe(self._left[0]))
        except RuntimeError as problem:
            self.explain(problem)

    def explain(self, problem: BaseException) -> NoReturn:
        """End this process after a collective operation has failed, and say which process has broken the connection.

        Args:
            problem: the error of the operation, which does not say so.
        """
        for _ in range(3 * MISSED):
            silent = self._find_silent(MISSED * self._interval)
            if silent is not None or self._left:
                self.end(self._describe(self._left[0] if silent is None else silent))
            time.sleep(self._interval)
        self.end(f"processes: a connection between them failed ({problem}); {CONTINUE}")

    def end(self, problem: str) -> NoReturn:
        """End this process with an error of one line and exit code 2.

        It ends at once, without exit handlers, because process groups that have lost a member could wait for it.
        """
        self._ending.acquire()              # for good, so that one of the threads prints
        for act in BEFORE_END:
            act()
        print_error(f"{problem} (train.timeout: {self.timeout:g} s)")
        sys.stdout.flush()
        os._exit(2)

    @property
    def _host(self) -> str:
        """Return who keeps the store."""
        return "launcher" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "process 0"

    def _connect(self) -> Store:
        """Connect to the store of the process group."""
        store, *_ = next(torch.distributed.rendezvous("env://", self.rank, self.size))
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")        # a launcher may keep the store
        return PrefixStore(f"ddpm/{restarts}", store)

    def _has(self, key: str) -> bool:
        """Wait for a key of the store for one interval, so that signals are handled in between."""
        try:
            self._store.wait([key], timedelta(seconds=self._interval))
        except torch.distributed.DistStoreError:
            return False
        return True

    def _find_silent(self, seconds: float) -> int | None:
        """Return the process that has not counted for the longest time, if that is more than some seconds.

        If the store is silent, so are all. The process that keeps it may have ended because another one died before,
        which is then returned, and otherwise this process itself. A process that has said that it ends is not silent:
        nobody may need it any more.
        """
        others = (rank for rank in range(self.size) if rank != self.rank and rank not in self._left)
        first = min(others, key=self._heard.__getitem__, default=self.rank)
        answered = self._heard[self.rank]               # when the store last did
        if self._clock - answered > seconds:
            return first if answered - self._heard[first] > MISSED * self._interval else self.rank
        return first if self._clock - self._heard[first] > seconds else None

    def _describe(self, rank: int) -> str:
        """Return what became of a process; of this one, what became of the store."""
        if rank in self._left:
            return f"process {rank}: has ended while others wait for it; its output says why; {CONTINUE}"
        who = self._host if rank == self.rank else f"process {rank}"
        silence = self._clock - self._heard[rank]
        when = datetime.now() - timedelta(seconds=silence)
        return (
            f"{who}: last heard from at {when:%H:%M:%S}, {silence:.0f} s ago, so it was killed or hangs; its output or "
            f"the log of its machine may say why (often too little memory); {CONTINUE}"
        )

    def _beat(self) -> None:
        """Count until this process leaves, and read the counts of all."""
        known, count = [b""] * self.size, 0
        try:
            while not self._leaving.is_set():
                count += 1
                self._beats.set(self._keys[self.rank], str(count))
                for rank, value in enumerate(self._beats.multi_get(self._keys)):
                    if value != known[rank]:
                        known[rank], self._heard[rank] = value, self._clock
                    if value == ENDED.encode() and rank not in self._left:
                        self._left.append(rank)
                self._leaving.wait(self._interval)
            self._beats.set(self._keys[self.rank], ENDED)
        except RuntimeError:
            return          # the store is gone: what waits for it raises an error, or else `_watch` notices

    def _watch(self) -> None:
        """End this process once another one has been silent for the timeout."""
        before = time.monotonic()
        while not self._leaving.wait(self._interval):
            now = time.monotonic()
            self._clock += min(now - before, 2 * self._interval)
            before = now
            if (silent := self._find_silent(self.timeout)) is not None:
                self.end(self._describe(silent))
