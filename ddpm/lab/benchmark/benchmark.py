"""The benchmark command: what is measured in which order, within a budget of time, and what is written."""

import math
import time
from typing import Any

from ddpm.atomic import write_json, write_text
from ddpm.config.commands import BenchmarkCommand
from ddpm.lab.benchmark.benchmark_table import benchmark_table
from ddpm.lab.benchmark.comparisons import COMPARISONS, Bench, LeftOut, set_up_bench
from ddpm.lab.benchmark.machine import describe_hardware
from ddpm.lab.benchmark.setting import choose_setting
from ddpm.models.compilation import check_compiler
from ddpm.processes import check_launch, join_processes

Turn = tuple[str, bool]         # name of a comparison, and whether both sides are compiled


def benchmark(command: BenchmarkCommand) -> dict[str, Any]:
    """Check that both sides compute the same, measure them, print the table, and write it and a JSON file.

    The files are written after each part, so that a command that is ended keeps what it has.

    Args:
        command: options of the benchmark.

    Returns:
        The content of benchmark.json.

    Raises:
        ValueError: if an option does not fit the machine, or UNet2DModel does not support the network.
        RuntimeError: if the outputs of both sides differ.
        SystemExit: with code 1, if a part failed.
    """
    start = time.monotonic()
    processes = join_processes()
    check_launch(processes.num_processes, "benchmark.py")
    if processes.num_processes > 1:
        raise ValueError("benchmark.py runs as one process; start it with python instead of accelerate launch")
    if command.compile:
        check_compiler(processes.device, "compile")
    if command.out is not None and command.out.exists() and not command.out.is_dir():
        raise ValueError(f"out: {command.out} is a file; give a folder")
    bench = set_up_bench(choose_setting(command), command.rounds, command.sampling_steps)
    if command.out is not None:
        command.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "machine": describe_hardware(bench.accelerator.device),
        "setting": bench.describe(),
        "comparisons": {},
        "left_out": {},
        "failed": {},
    }
    deadline = math.inf if command.budget is None else start + command.budget
    parts = plan_parts(command, bench.device.type)
    for i, part in enumerate(parts):
        _measure(bench, part, result, deadline, len(parts) - i)
        if command.out is not None:
            write_json(command.out / "benchmark.json", result)
            write_text(command.out / "benchmark.txt", benchmark_table(result) + "\n")
    print(benchmark_table(result))
    if result["failed"]:
        raise SystemExit(1)
    return result


def plan_parts(command: BenchmarkCommand, device_type: str) -> list[Turn]:
    """Return what to measure, the most important first.

    What is compiled comes last, except for the first comparison, because compiling takes long and cannot be ended.

    Args:
        command: options of the benchmark.
        device_type: cpu, cuda or mps.
    """
    chosen = [name for name in COMPARISONS if command.only is None or name in command.only]
    compiled = [(name, True) for name in chosen if command.compile and device_type in COMPARISONS[name].compiled_on]
    eager = [(name, False) for name in chosen]
    return [*eager[:1], *compiled[:1], *eager[1:], *compiled[1:]]


def _measure(bench: Bench, part: Turn, result: dict[str, Any], deadline: float, left: int) -> None:
    """Measure a part, and add what was found, or why there is nothing, to the result.

    Args:
        bench: what is measured.
        part: the part.
        result: the content of benchmark.json so far.
        deadline: `time.monotonic()` after which no part begins.
        left: number of parts that share the time until then, with this one.
    """
    name, compiled = part
    title, now = f"{name}, compiled" if compiled else name, time.monotonic()
    if now > deadline:
        result["left_out"][title] = "the budget was used up"
        return
    try:
        found = COMPARISONS[name].compare(bench, compiled, now + (deadline - now) / left)
    except LeftOut as reason:
        result["left_out"][title] = str(reason)
        return
    except Exception as problem:            # compilers raise any; the other parts do not depend on it
        result["failed"][title] = f"{type(problem).__name__}: {problem}"
        return
    result["comparisons"][title] = {**found, "seconds": round(time.monotonic() - now, 1)}
