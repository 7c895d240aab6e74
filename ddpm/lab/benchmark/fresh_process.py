"""Calls in processes of their own, for what must not depend on what a process did before."""

import multiprocessing
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 3600.0           # seconds that a process may take, whatever the deadline


def call_in_processes(
    calls: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], deadline: float
) -> dict[str, Any]:
    """Make calls at the same time, each in a new process.

    Args:
        calls: name -> function and arguments, which can be pickled.
        deadline: `time.monotonic()` at which processes that still work are ended.

    Returns:
        The results by name, without those that were not finished.

    Raises:
        RuntimeError: if a call failed, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    running = {}
    for name, (function, arguments) in calls.items():
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_send_result, args=(theirs, function, arguments), daemon=True)
        process.start()
        theirs.close()
        running[name] = (process, ours)
    results = {}
    try:
        for name, (process, connection) in running.items():
            if not connection.poll(min(PATIENCE, max(0.0, deadline - time.monotonic()))):
                continue
            try:
                result, problem = connection.recv()
            except EOFError:
                process.join()
                raise RuntimeError(f"{name}: the process ended with exit code {process.exitcode}") from None
            if problem is not None:
                raise RuntimeError(f"{name}:\n{problem}")
            results[name] = result
    finally:
        for process, connection in running.values():
            process.kill()
            process.join()
            connection.close()
    return results


def _send_result(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        result, problem = function(*arguments), None
    except Exception:
        result, problem = None, traceback.format_exc()
    connection.send((result, problem))
