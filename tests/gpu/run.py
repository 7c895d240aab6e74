"""Run tests/gpu and the benchmark on a machine with one GPU, within a limit of time, and collect what they say.

python tests/gpu/run.py --out gpu_results
python tests/gpu/run.py --out gpu_results --wheels wheels --parts adm64,sampling,stall --limit 230
python tests/gpu/run.py --out gpu_results --wheels wheels --parts five_minutes --limit 460 --cifar10 train.parquet

Each part is a process with a limit of its own, and is ended after it; the others do not depend on it. After each part,
the folder has results.json and results.txt, and the output of each part as a text file. The exit code is 1 if a part
failed, was ended, or was left out because no time remained.

The machine needs the packages of pyproject.toml except `wandb`, and pytest; only `five_minutes` needs `datasets`. What
it lacks can be in a folder of wheels, which --wheels installs into the output folder. On another machine with network
access, for Python 3.12 on Linux, the folder is made with

pip download --dest wheels --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 \
    "diffusers>=0.42,<0.43" docstring-parser importlib-metadata zipp pytest iniconfig pluggy pygments \
    matplotlib contourpy cycler fonttools kiwisolver python-dateutil pyparsing six \
    datasets dill multiprocess xxhash
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LEAST = 15          # seconds that a part must have

BENCHMARK = ("scripts/benchmark.py", "--mixed-precision", "bf16", "--out", "{out}")
# Replaces the options in pyproject.toml, which leave out what is slow on CPUs.
PYTEST = ("-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-v", "--tb=short",
          "--durations=10")
# Most of the time, processors compile kernels, so several processes share the tests where pytest-xdist is installed.
SHARED = ("-n", str(min(12, os.cpu_count() or 1)), "--dist", "worksteal") if find_spec("xdist") else ()
STALL = "stall_of_a_checkpoint"         # is timed, so that nothing else may run

# Name -> limit in seconds and the words after `python`, with the folder of the part and the file of --cifar10.
PARTS = {
    "tests": (150, (*PYTEST, *SHARED, "-k", f"not {STALL}", "tests/gpu")),
    "norms": (60, ("tests/gpu/norm_bandwidth.py", "--out", "{out}.json")),
    "cifar": (70, (*BENCHMARK, "--preset", "cifar", "--rounds", "10", "--budget", "50")),
    "stall": (90, (*PYTEST, "-s", "-k", STALL, "tests/gpu/test_checkpoint.py")),
    # With fewer images, the GPU waits for the CPU that starts the kernels, and the speed is that of the CPU.
    "adm64": (150, (*BENCHMARK, "--preset", "adm64", "--batch-size", "48", "--only", "training,forward,launches",
                    "--rounds", "5")),
    "sampling": (120, (*BENCHMARK, "--preset", "adm64", "--only", "sampling", "--rounds", "3")),
    # A compilation cannot be ended before it is complete.
    "compiled": (120, (*BENCHMARK, "--preset", "cifar", "--only", "training,forward,launches", "--compile",
                       "--rounds", "10")),
    "compiled_adm64": (300, (*BENCHMARK, "--preset", "adm64", "--batch-size", "48", "--only", "training,launches",
                             "--compile", "--rounds", "5")),
    "compiled_sampling": (300, (*BENCHMARK, "--preset", "adm64", "--only", "sampling", "--compile", "--rounds", "3")),
    "five_minutes": (440, ("tests/gpu/five_minutes.py", "--source", "{cifar10}", "--out", "{out}")),
}
USUAL = "tests,norms,cifar"


def install_wheels(wheels: Path, folder: Path) -> None:
    """Install all wheels of a folder into another, which nothing else uses."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"--wheels: {wheels} has no wheels; this file says how to make them")
    options = ("--no-index", "--no-deps", "--quiet", "--upgrade", "--target", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *files], check=True)


def run_part(words: list[str], output: Path, limit: float, environment: dict[str, str]) -> dict[str, Any]:
    """Run a part until its limit.

    Args:
        words: what follows `python` on the command line.
        output: file that takes what the part prints.
        limit: in seconds.
        environment: its variables.

    Returns:
        The command, its seconds, and its exit code, which is None if it was ended.
    """
    start = time.monotonic()
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,         # a group of its own, so that what the part has started ends with it
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    command = " ".join(["python", *words])
    return {"command": command, "limit": round(limit), "seconds": round(time.monotonic() - start, 1), "exit_code": code}


def read_tests(text: str) -> dict[str, Any]:
    """Return the number of tests of each outcome, and those that failed, as `pytest -v` prints them.

    With pytest-xdist, the outcome comes before the name.
    """
    outcomes = "(PASSED|FAILED|ERROR|SKIPPED)"
    found = re.findall(rf"^(\S+::.+?) {outcomes}\b", text, re.MULTILINE)
    shared = re.findall(rf"^\[gw.+\] {outcomes} (\S+::.+?) *$", text, re.MULTILINE)
    found += [(name, outcome) for outcome, name in shared]
    return {
        "counts": dict(Counter(outcome for _, outcome in found)),
        "failed": [name for name, outcome in found if outcome in ("FAILED", "ERROR")],
    }


def summarize(results: dict[str, Any], out: Path) -> str:
    """Return the results as text."""
    lines = []
    for name, part in results.items():
        if "left_out" in part:
            lines.append(f"{name}: left out: {part['left_out']}")
            continue
        end = "ended at its limit" if part["exit_code"] is None else f"exit code {part['exit_code']}"
        lines.append(f"{name}: {end} after {part['seconds']} s; {part['command']}")
        if "tests" in part:
            lines += [f"  {part['tests']['counts']}", *(f"  failed: {test}" for test in part["tests"]["failed"])]
        table = out / name / "benchmark.txt"
        lines += [f"  {line}" for line in table.read_text().splitlines()] if table.exists() else []
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--parts", default=USUAL, help=f"separated by commas, in any order: {', '.join(PARTS)}")
    parser.add_argument("--limit", type=float, default=235, help="seconds of everything together")
    parser.add_argument("--cifar10", type=Path, help="parquet file of CIFAR-10's training images, for five_minutes")
    args = parser.parse_args()
    if unknown := {*args.parts.split(",")} - {*PARTS}:
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    if "five_minutes" in args.parts.split(",") and not (args.cifar10 and args.cifar10.is_file()):
        parser.error("--cifar10: give the parquet file of CIFAR-10's training images, or leave out five_minutes")
    deadline = time.monotonic() + args.limit
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT)]
    if args.wheels is not None:
        install_wheels(args.wheels, out / "packages")
        paths.append(str(out / "packages"))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "disabled"}

    results: dict[str, Any] = {}
    for name in args.parts.split(","):
        limit, words = PARTS[name]
        limit = min(limit, deadline - time.monotonic())
        if limit < LEAST:
            results[name] = {"left_out": f"fewer than {LEAST} s of {args.limit:g} s were left"}
        else:
            output, folder = out / f"{name}.txt", out / name
            words = tuple(word.format(out=folder, cifar10=args.cifar10 and args.cifar10.resolve()) for word in words)
            results[name] = run_part([*words], output, limit, environment)
            if "pytest" in words:
                results[name]["tests"] = read_tests(output.read_text())
            elif (folder / "benchmark.json").exists():
                results[name]["benchmark"] = json.loads((folder / "benchmark.json").read_text())
        (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (out / "results.txt").write_text(summarize(results, out))
    print(summarize(results, out), end="")
    return int(any(part.get("exit_code") != 0 for part in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
