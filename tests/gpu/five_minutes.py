"""Train configs/cifar10_5min.yaml on a GPU, and measure its images against the real ones.

python tests/gpu/five_minutes.py --source cifar10/train.parquet --out five_minutes

The output folder then has seconds.json (of training and of evaluation, whole commands), metrics.jsonl, grid.png and
evaluation.json. The machine needs the package `datasets`, which reads the parquet file.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_script(script: str, *options: object) -> float:
    """Run a script of the folder `scripts`, and return its seconds."""
    start = time.monotonic()
    subprocess.run([sys.executable, ROOT / "scripts" / script, *map(str, options)], check=True)
    return round(time.monotonic() - start, 1)


def main() -> None:
    """Train, evaluate, and collect the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="parquet file of CIFAR-10's training images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--options", nargs="*", default=[], help="more options of train.py, without their dashes")
    parser.add_argument("--count", type=int, default=10_000, help="images that are drawn for the evaluation")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run, evaluation = args.out / "run", args.out / "evaluation"
    config = ROOT / "configs" / "cifar10_5min.yaml"
    options = [word if i % 2 else f"--{word}" for i, word in enumerate(args.options)]
    seconds = {}
    seconds["training"] = run_script(
        "train.py", "--config", config, "--data.source", args.source, "--run-dir", run, "--tracking.wandb", "off",
        *options,
    )
    shutil.copy(run / "metrics.jsonl", args.out)
    shutil.copy(max((run / "samples").glob("step_*.png")), args.out / "grid.png")
    (args.out / "seconds.json").write_text(json.dumps(seconds) + "\n")
    metrics = "frechet_distance,kernel_distance,accuracy"
    seconds["evaluation"] = run_script(
        "evaluate.py", run, "--count", args.count, "--metrics", metrics, "--bootstrap", 50, "--out", evaluation
    )
    shutil.copy(evaluation / "evaluation.json", args.out)
    (args.out / "seconds.json").write_text(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
