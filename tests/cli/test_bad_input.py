"""Every mistake that a user can put right: one line that names it, exit code 2, nothing written."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ddpm.models.norm import NORMS

ROOT = Path(__file__).parents[1]
SMALL = ["--train.steps", "2", "--train.batch_size", "4", "--model.channels", "8", "--model.head_channels", "8"]
SMALL += ["--sample.steps", "2", "--sample.per_class", "1", "--tracking.wandb", "off"]


def run(monkeypatch, capsys, script: str, *args: str) -> tuple[int, str]:
    """Exit code and what was written to standard error."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *args])
    code = 0
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    except SystemExit as exit:
        code = exit.code
    return code, capsys.readouterr().err


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of two classes."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (16, 16), (40 * i, 80, 120)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


MISTAKES = {
    "mistyped option": (["--model.chanels", "8"], "model.chanels is not an option; did you mean model.channels?"),
    "mistyped section": (["--modle.channels", "8"], "did you mean model.channels?"),
    "wrong type": (["--model.channels", "many"], "model.channels: Expected a int. Got value: many"),
    "out of range": (["--train.batch_size", "0"], "train.batch_size: 0 is out of range; allowed: 1 or more"),
    "unknown norm": (["--model.norm", "adagan"], f"'adagan' is not one of {', '.join(NORMS)}; did you mean adagn?"),
    "unknown schedule": (["--diffusion.schedule", "cosin"], "did you mean cosine?"),
    "unknown prediction": (["--diffusion.prediction", "epsilon"], "is not one of eps, v, x_0; did you mean eps?"),
    "unknown weighting": (["--diffusion.weighting", "minsnr"], "did you mean min_snr?"),
    "unknown sampler": (["--sample.sampler", "dimm"], "did you mean ddim?"),
    "unknown spacing": (["--sample.spacing", "leeding"], "did you mean leading?"),
    "eps without signal": (
        ["--diffusion.prediction", "eps", "--diffusion.zero_terminal_snr", "true"],
        "diffusion.prediction: eps cannot be turned into an image where diffusion.zero_terminal_snr leaves no signal",
    ),
    "batch not divisible": (
        ["--train.batch_size", "30", "--train.accumulation", "4"],
        "train.batch_size: 30 is not divisible by 1 process(es) x 4 accumulation step(s); use 28 or 32",
    ),
    "resolution not divisible": (
        ["--data.resolution", "10", "--model.channel_mult", "[1, 2, 2]"],
        "data.resolution: 10 is not divisible by 4, as the 3 levels of model.channel_mult need; use 8 or 12, or at",
    ),
    "attention nowhere": (
        ["--model.attention_resolutions", "[16]"],
        "model.attention_resolutions: 16 never occurs; at data.resolution 8 the levels are at 8, 4",
    ),
    "heads do not divide": (["--model.head_channels", "5"], "model.head_channels: 5 does not divide the 16 channels"),
    "more steps than timesteps": (["--diffusion.num_timesteps", "10", "--sample.steps", "11"], "sample.steps: 11"),
    "guidance without a null class": (
        ["--diffusion.label_dropout", "0", "--sample.guidance", "2"],
        "sample.guidance: only 1 is possible where diffusion.label_dropout is 0",
    ),
    "missing data": (["--data.source", "./no/such/folder"], "data.source"),
    "fp16 without a GPU": (["--train.precision", "fp16"], "train.precision: fp16 needs a GPU, and there is none"),
    "missing file": (["--config", "no.yaml"], "File does not exist"),
    "no permission": (["--run-dir", "/proc/no/run"], "/proc/no"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_training_mistakes(mistake, monkeypatch, capsys, tmp_path):
    if mistake == "fp16 without a GPU":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    args, expected = MISTAKES[mistake]
    args = [*SMALL, "--run-dir", str(tmp_path / "run"), *args]
    code, error = run(monkeypatch, capsys, "train", *args)
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["4", "1e-9"], ids=["in memory", "on demand"])
def test_unreadable_image(memory, images, tmp_path):
    """Named by its path, also where a worker finds it while training; or skipped and counted."""
    (images / "cat" / "2.png").write_bytes(b"no picture")
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--run-dir", str(tmp_path / "run"), *SMALL]
    command += ["--data.source", str(images), "--data.memory_gb", memory, "--model.attention_resolutions", "[]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("train.py: error:") and str(images / "cat" / "2.png") in last
    assert "Traceback" not in done.stderr
    command += ["--run-dir", str(tmp_path / "skipping"), "--data.on_bad_image", "skip"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "WARNING: 1 unreadable images are left out" in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps on two classes, cat and dog."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 60 * i).save(folder / "images" / name / f"{i}.png")
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--run-dir", str(folder / "run"), *SMALL]
    done = subprocess.run([*command, "--data.source", str(folder / "images")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


SAMPLING_MISTAKES = {
    "unknown class": (["--classes", "cta"], "classes: 'cta' is not a class; did you mean cat?; known are cat, dog"),
    "id out of range": (["--classes", "0,2"], "classes: id 2 is out of range; allowed are 0 to 1"),
    "negative id": (["--classes=-1"], "classes: id -1 is out of range"),
    "empty list": (["--classes", ","], "classes: none given"),
    "too many steps": (["--steps", "1001"], "sample.steps: 1001 is out of range; the model has timesteps for 1 to"),
    "unknown sampler": (["--sampler", "euler_"], "sample.sampler: 'euler_' is not one of ddim, ddpm"),
    "eta out of range": (["--eta", "2"], "sample.eta: 2.0 is out of range; allowed: 0 to 1"),
    "mistyped option": (["--gidance", "2"], "gidance is not an option; did you mean guidance?"),
}


@pytest.mark.parametrize("mistake", SAMPLING_MISTAKES)
def test_sampling_mistakes(mistake, trained, monkeypatch, capsys, tmp_path):
    args, expected = SAMPLING_MISTAKES[mistake]
    code, error = run(monkeypatch, capsys, "sample", str(trained), "--out", str(tmp_path / "out"), *args)
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "out").exists()


def test_sampling_from_nothing(monkeypatch, capsys, tmp_path):
    code, error = run(monkeypatch, capsys, "sample", str(tmp_path / "none"))
    assert code == 2 and "no such directory" in error
    code, error = run(monkeypatch, capsys, "sample", str(tmp_path))
    assert code == 2 and "holds neither checkpoints nor a pipeline" in error


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """On a file system of 20 MB, which holds a few checkpoints of this model."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--run-dir", str(disk / "run"), *SMALL]
    command += ["--train.steps", "40", "--train.checkpoint_every", "2", "--train.sample_every", "0"]
    command += ["--model.channels", "32", "--model.head_channels", "8", "--train.keep_checkpoints", "100"]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("cannot make a file system of its own")
    inside = f"""
        mount -t tmpfs -o size=20m none {disk} || exit 1
        {" ".join(command)}
        code=$?
        ls -A {disk}/run/checkpoints > {tmp_path}/left
        exit $code
    """
    done = subprocess.run(["unshare", "-rm", "bash", "-c", inside], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "could not be written" in last and "the newest good checkpoint is step_" in last
    left = (tmp_path / "left").read_text().split()
    assert left and all(name.startswith("step_") for name in left)      # no half-written folder
