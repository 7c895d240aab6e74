"""Solvers, guidance, inversion and the class swap on the digits of the first command, measured with a classifier."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "benchmarks" / "quality.py"


@pytest.fixture(scope="module")
def quality(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Estimates of 300 images; docs/measurements.md has those of 1,000."""
    out = tmp_path_factory.mktemp("quality")
    command = [sys.executable, str(SCRIPT), str(digits_run), "--out", str(out), "--images", "300"]
    command += ["--budgets", "5", "10", "15", "20", "50"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=2400)
    return json.loads((out / "quality.json").read_text())


# Numbers of evaluations at which a solver is as good as 250 ancestral steps. The more exactly the ODE is solved, the
# closer the accuracy is to its limit, which for this model is a point below the ancestral sampler's
# (docs/measurements.md).
AS_GOOD = {"ddim": (5, 10, 20), "euler": (5, 10, 20), "dpmpp": (5,), "unipc": (5,)}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", AS_GOOD)
def test_few_evaluations_do_what_250_ancestral_steps_do(sampler: str, quality: dict) -> None:
    ancestral, *rows = quality["solvers"]["rows"]
    assert ancestral["sampler"] == "ddpm" and ancestral["steps"] == 250
    of = {r["steps"]: r["accuracy"] for r in rows if (r["sampler"], r["timestep_spacing"]) == (sampler, "trailing")}
    for steps in AS_GOOD[sampler]:
        # One point, and two standard errors of the difference between two samples of 300 images.
        assert of[steps] >= ancestral["accuracy"] - 0.028, steps


@pytest.mark.slow
def test_solvers_agree_in_the_end(quality: dict) -> None:
    for r in quality["solvers"]["rows"]:
        if r["sampler"] != "ddpm" and r["steps"] == 50:
            assert r["difference"] < 4 and r["accuracy"] > 0.94, r      # gray levels; 2.9 at most of 1,000 images


@pytest.mark.slow
def test_second_order_comes_closer_with_fewer_evaluations(quality: dict) -> None:
    of = {(r["sampler"], r["timestep_spacing"], r["steps"]): r["difference"] for r in quality["solvers"]["rows"]}
    for sampler in ("dpmpp", "unipc"):
        for steps in (10, 15, 20):
            assert of[sampler, "logsnr", steps] < of["ddim", "trailing", steps], (sampler, steps)
    for sampler, spacing, _ in of:
        if sampler != "ddpm":
            assert of[sampler, spacing, 50] < of[sampler, spacing, 10]


@pytest.mark.slow
def test_guidance_gives_accuracy_for_diversity(quality: dict) -> None:
    rows = quality["guidance"]["rows"]
    assert [r["scale"] for r in rows] == [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0]
    for low, high in pairwise(rows):
        assert high["accuracy"] >= low["accuracy"] - 0.0034, high       # one image of 300
        assert high["diversity"] < low["diversity"], high
    assert rows[0]["accuracy"] < 0.3 and rows[4]["accuracy"] >= 0.99


@pytest.mark.slow
def test_a_real_image_to_its_noise_and_back(quality: dict) -> None:
    for result in quality["inversion"].values():
        assert result["psnr_of_all"] >= 30 and result["worst"] >= 30
    assert quality["inversion"]["3 iterations"]["psnr_of_all"] > quality["inversion"]["1 iterations"]["psnr_of_all"]


@pytest.mark.slow
def test_the_class_swap_hands_over(quality: dict) -> None:
    for guidance in (1.0, 2.0):
        rows = [r for r in quality["swap"]["rows"] if r["guidance_scale"] == guidance]
        assert rows[0]["coarse wins"] > 0.93 and rows[-1]["fine wins"] > 0.93
        for few, more in pairwise(rows):
            assert more["coarse wins"] <= few["coarse wins"] and more["fine wins"] >= few["fine wins"]


@pytest.mark.slow
def test_other_data_needs_no_classifier_and_few_images(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (210, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "colors.npz", images=colors, labels=np.arange(210) % 3)
    train = [sys.executable, "scripts/train.py", "--data.source", str(tmp_path / "colors.npz")]
    train += ["--run-dir", str(tmp_path / "run"), "--train.steps", "1", "--train.batch_size", "8"]
    train += ["--model.channels", "8", "--model.head_channels", "8", "--model.channel_mult", "[1]"]
    train += ["--sample.steps", "1", "--sample.per_class", "1", "--tracking.wandb", "off"]
    subprocess.run(train, cwd=ROOT, check=True)
    measure = [sys.executable, str(SCRIPT), str(tmp_path / "run"), "--out", str(tmp_path)]
    measure += ["--only", "inversion", "swap"]
    subprocess.run([*measure, "--images", "12"], cwd=ROOT, check=True, timeout=600)
    found = json.loads((tmp_path / "quality.json").read_text())
    assert found["swap"] is None and found["inversion"]
    for images in ("5", "209"):
        refused = subprocess.run([*measure, "--images", images], cwd=ROOT, text=True, capture_output=True)
        assert refused.returncode == 2 and "--images" in refused.stderr and "6 to 208" in refused.stderr
