"""The script that compares times to quality: which run counts, that its recipes exist, and that both sides train."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from ddpm.config.sections import Config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("time_to_quality")


class Recorded:
    """A side whose runs have known accuracies, by number of steps."""

    name = "ours"

    def __init__(self, accuracies: dict[int, float]) -> None:
        self.accuracies, self.trained = accuracies, []

    def run(self, steps: int, seed: int) -> dict:
        self.trained.append(steps)
        return {"side": self.name, "steps": steps, "seed": seed, "accuracy": self.accuracies[steps]}


def test_the_shortest_good_run_counts_and_known_runs_are_not_trained_again(script: ModuleType) -> None:
    side = Recorded({144: 0.9, 173: 0.979, 207: 0.98, 249: 1.0})
    noted: list[dict] = []
    assert script.find_steps(side, 144, 3, [], noted.append) == 207
    assert side.trained == [144, 173, 207] == [row["steps"] for row in noted]
    assert script.find_steps(side, 144, 3, noted[:2], noted.append) == 207
    assert side.trained == [144, 173, 207, 207]
    assert script.find_steps(side, 144, 4, noted, noted.append) == 207      # another seed
    assert side.trained[-3:] == [144, 173, 207]
    with pytest.raises(SystemExit):
        script.find_steps(Recorded(dict.fromkeys(script.LENGTHS, 0.9)), 100, 0, [], noted.append)


def test_both_sides_were_tuned_with_as_many_trials_of_options_that_exist(script: ModuleType) -> None:
    trials = yaml.safe_load((FOLDER / "time_to_quality.yaml").read_text())
    assert len(trials["ours"]) == len(trials["diffusers"]) == 31
    for trial in trials["ours"]:
        Config().with_options({key: value for key, value in trial.items() if key != "steps"})
    known = {field.name for field in dataclasses.fields(script.Recipe)} | {"steps"}
    assert {key for trial in trials["diffusers"] for key in trial} <= known


@pytest.mark.slow
def test_both_sides_train_and_are_judged(tmp_path: Path) -> None:
    trials = {"ours": [{"steps": 3, "train.batch_size": 8}], "diffusers": [{"steps": 3, "batch_size": 8}]}
    (tmp_path / "trials.yaml").write_text(yaml.safe_dump(trials))
    command = [sys.executable, str(FOLDER / "time_to_quality.py"), "--out", str(tmp_path), "--seeds", "0"]
    command += ["--trials", str(tmp_path / "trials.yaml"), "--samples", "70", "--ddim-steps", "2"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["side"] for row in rows] == ["ours", "diffusers"]
    for row in rows:
        assert row["seconds"] > 0 and 0 <= row["accuracy"] <= 1 and row["distance"] > 0
