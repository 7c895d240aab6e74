"""Mistakes that a user can correct: one line that names the option and the remedy, exit code 2, nothing written."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
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


# Arguments, and texts that the message has to contain. tests/cli/test_train_options.py has mistakes in single options.
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "batch not divisible": (
        ["--train.batch_size", "30", "--train.gradient_accumulation_steps", "4"], ["train.batch_size: 30", "28 or 32"],
    ),
    "resolution not divisible": (
        ["--data.resolution", "10", "--model.channel_mult", "[1, 2, 2]"], ["data.resolution: 10", "use 8 or 12"],
    ),
    "attention nowhere": (["--model.attention_resolutions", "[16]"], ["model.attention_resolutions: 16", "8, 4"]),
    "channels": (["--model.channels", "1"], ["model.channels: 1", "2 or more"]),
    "heads do not divide": (["--model.head_channels", "5"], ["model.head_channels: 5", "1, 2, 4, 8, 16"]),
    "more steps than timesteps": (
        ["--diffusion.num_timesteps", "10", "--sample.steps", "11"], ["sample.steps: 11", "1 to 10"],
    ),
    "eta of another sampler": (["--sample.sampler", "euler", "--sample.eta", "0.5"], ["sample.eta", "ddim"]),
    "guidance without a null class": (
        ["--diffusion.class_dropout_prob", "0", "--sample.guidance_scale", "2"],
        ["sample.guidance_scale", "diffusion.class_dropout_prob"],
    ),
    "extractor": (
        ["--evaluation.every", "1", "--evaluation.extractor", "clasifier"],
        ["evaluation.extractor", "did you mean classifier?"],
    ),
    "missing data": (["--data.source", "./no/such/folder"], ["data.source"]),
    "fp16 without a GPU": (["--train.mixed_precision", "fp16"], ["train.mixed_precision", "fp16", "GPU"]),
    "fp16 grids without a GPU": (["--sample.mixed_precision", "fp16"], ["sample.mixed_precision", "fp16", "GPU"]),
    "no permission": (["--run-dir", "/proc/no/run"], ["/proc/no"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_training_mistakes(mistake, monkeypatch, capsys, tmp_path):
    if mistake.startswith("fp16"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    args, named = MISTAKES[mistake]
    code, error = run(monkeypatch, capsys, "train", *SMALL, "--run-dir", str(tmp_path / "run"), *args)
    assert code == 2
    assert [text for text in named if text not in error] == [], error
    warnings = [line for line in error.splitlines() if line.startswith("WARNING: --")]      # of options in SMALL
    assert len(error.strip().splitlines()) == 1 + len(warnings), error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["4", "1e-9"], ids=["in memory", "on demand"])
def test_unreadable_image(memory, images, tmp_path):
    """The error names the file, also when a worker process finds it during training; or it is skipped and counted."""
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
    assert "WARNING: 1 unreadable image" in done.stderr


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


SAMPLING_MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown class": (["--classes", "cta"], ["classes: 'cta'", "did you mean cat?", "cat, dog"]),
    "id out of range": (["--classes", "0,2"], ["classes: id 2", "0 to 1"]),
    "negative id": (["--classes=-1"], ["classes: id -1", "0 to 1"]),
    "empty list": (["--classes", ","], ["classes"]),
    "too many steps": (["--steps", "1001"], ["steps: 1001", "1 to 1000"]),
    "unknown sampler": (["--sampler", "euler_"], ["sampler: 'euler_'", "did you mean euler?"]),
    "unknown format": (["--format", "pgn"], ["format: 'pgn'", "did you mean png?"]),
    "eta out of range": (["--eta", "2"], ["eta: 2.0", "0 to 1"]),
    "mistyped option": (["--gidance-scale", "2"], ["gidance-scale", "did you mean --guidance-scale?"]),
}


@pytest.mark.parametrize("mistake", SAMPLING_MISTAKES)
def test_sampling_mistakes(mistake, trained, monkeypatch, capsys, tmp_path):
    args, named = SAMPLING_MISTAKES[mistake]
    code, error = run(monkeypatch, capsys, "sample", str(trained), "--out", str(tmp_path / "out"), *args)
    assert code == 2
    assert [text for text in named if text not in error] == [], error
    assert len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "out").exists()


def test_sampling_from_nothing(monkeypatch, capsys, tmp_path):
    code, error = run(monkeypatch, capsys, "sample", str(tmp_path / "none"))
    assert code == 2 and str(tmp_path / "none") in error and "give a run" in error
    code, error = run(monkeypatch, capsys, "sample", str(tmp_path))
    assert code == 2 and str(tmp_path) in error and "checkpoints" in error


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
    assert str(disk) in last and "step_" in last
    left = (tmp_path / "left").read_text().split()
    assert left and all(name.startswith("step_") for name in left)      # no half-written folder


def test_the_directory_of_a_study_is_no_run(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text("{}")
    code, err = run(monkeypatch, capsys, "train", "--run-dir", str(tmp_path / "study"), *SMALL)
    assert code == 2 and "study" in err and "--run-dir" in err and len(err.splitlines()) == 1
    assert [path.name for path in (tmp_path / "study").iterdir() if not path.name.startswith(".")] == ["study.json"]
