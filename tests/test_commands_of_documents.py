"""README.md, docs and --help: every command runs, in a folder with small stand-ins for what it names.

Training and studies are run with --dry-run, which loads the images, derives options, builds and times the network.
"""

import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DModel
from PIL import Image

import ddpm.training.dry_run
from ddpm.cli.help_pages import HELP_PAGES
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

sys.path.insert(0, str(Path(__file__).parent))       # for the helper module document_code

from document_code import ROOT, commands

TINY = ["--model.channels", "8", "--model.head_channels", "8", "--train.steps", "2", "--train.batch_size", "8"]
TINY += ["--train.warmup_steps", "1", "--train.checkpoint_every", "1", "--train.log_every", "1", "--sample.steps", "1"]
TINY += ["--sample.per_class", "1", "--tracking.wandb", "off"]
# Appended to a command of each script, so that it takes seconds.
SHORTER = {
    "train": ["--dry-run"],
    "ablate": ["--dry-run"],
    "push": ["--dry-run"],
    "sample": ["--per-class", "1", "--steps", "5"],
    "evaluate": ["--count", "30", "--steps", "2", "--bootstrap", "20", "--bound-images", "20"],
    "probe": ["--images", "20", "--timesteps", "2", "--samples", "1"],
    "compare": [],
    "convert": [],
    "benchmark": ["--only", "forward", "--rounds", "3", "--batch-size", "2"],
}
SLOW_SCRIPTS = ("ablate", "evaluate", "probe", "benchmark")
SLOW_WORDS = ("configs/cifar10.yaml", "configs/own_128.yaml", "128", "--compile")     # large networks or images
CIFAR10 = "uoft-cs/cifar10"                      # a path as well as a name on the hub; here there is a folder
# Commands that are only parsed, by a word of theirs, and why.
ONLY_PARSED = {
    "64x64_diffusion.pt": "a file of 1.2 GB on another server; tests/io/test_adm.py converts a small one",
    "--compile": "compiling for a CPU takes minutes; tests/gpu/run.py does it on a GPU",
    "inception": "needs weights from the network; tests/evaluation/test_extractors.py has a stand-in",
}


def of_script(command: str) -> tuple[str, tuple[str, ...]]:
    """Return the script of a command line, and its arguments."""
    _, script, arguments = re.split(r"scripts/(\w+)\.py", command)
    return script, tuple(shlex.split(arguments))


GIVEN = [(document, Path(script).stem, tuple(words)) for document, script, words in commands("scripts")]
GIVEN += [("--help", *of_script(example)) for page in HELP_PAGES.values() for _, example in page.examples]


def parameters() -> list:
    """Return each command once, with the mark `slow` if it takes more than a few seconds."""
    found = {}
    for document, script, words in GIVEN:
        slow = script in SLOW_SCRIPTS or any(word in SLOW_WORDS for word in words)
        marks = [pytest.mark.slow] if slow else []
        found[script, words] = pytest.param(script, words, marks=marks, id=f"{document}: {script} {shlex.join(words)}")
    return [*found.values()]


def draw_images(folder: Path, names: list[str], size: int = 32, count: int = 4) -> None:
    """Draw images of noise around a gray level of their class."""
    generator = np.random.default_rng([*folder.name.encode()])      # other images in test than in train
    for level, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(20 * level, 20 * level + 60, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def draw_splits(folder: Path, names: list[str]) -> None:
    """Draw images of a source with the splits train and test."""
    for split in ("train", "test"):
        draw_images(folder / split, names)


def call(script: str, words: list[str]) -> None:
    """Run a command in this process."""
    import_module(f"ddpm.cli.{script}").main(words)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with trained runs, a model at 64 pixels, and a UNet2DModel."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RANK", raising=False)
        draw_images(folder / "images", ["cat", "dog", "elk"])
        call("train", [*TINY, "--run-dir", "digits"])
        [checkpoint] = Path("digits/checkpoints").glob("step_*2")
        shutil.copytree(checkpoint, checkpoint.with_name("step_00000400"))      # to guide with
        call("train", [*TINY, "--run-dir", "mine", "--data.source", "images", "--data.resolution", "8"])
        call("train", [*TINY, "--run-dir", "digits8", "--model.norm_groups", "2"])      # 8, with fewer channels
        call("train", [*TINY, "--run-dir", "divided", "--data.split", "train[:80%]"])
        draw_splits(folder / CIFAR10, [f"class{i}" for i in range(10)])
        call("train", [*TINY, "--run-dir", "cifar10", "--data.source", CIFAR10, "--data.resolution", "8"])
    unet = UNet(64, channels=8, channel_mult=(1, 1), num_classes=2, attention_resolutions=(), head_channels=8)
    schedule = NoiseSchedule(SCHEDULES["cosine"](1000))
    ClassConditionalPipeline.from_parts(unet, schedule, "v", ["a", "b"]).save_pretrained(folder / "adm64")
    UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, num_class_embeds=3,
    ).save_pretrained(folder / "unet2d")
    return folder


def continues(script: str, words: tuple[str, ...]) -> bool:
    """Return whether a training command continues a run: it gives only where it is and how to go on."""
    options = [word for word in words if word.startswith("--")]
    going_on = ("--run-dir", "--allow-change", "--train.", "--data.source", "--evaluation.")
    moved = all(words[i + 1].startswith("new/") for i, word in enumerate(words) if word == "--data.source")
    return script == "train" and "--run-dir" in options and moved and all(o.startswith(going_on) for o in options)


def prepare(script: str, words: tuple[str, ...], models: Path) -> None:
    """Make stand-ins in the working directory for the files and folders that a command names."""
    Path("configs").symlink_to(ROOT / "configs")
    for word in {word for word in words if "/" in word or "." in word}:
        path, run = Path(word), re.match(r"runs/[\w/]*?(?=/checkpoints|$)", word)
        if run and continues(script, words):
            shutil.copytree(models / "mine", run[0])
            shutil.copytree(models / "images", "images", dirs_exist_ok=True)
        elif run and (word != _value(words, "--run-dir") or script == "benchmark") and not Path(run[0]).exists():
            named = next((name for name in ("cifar10", "digits8", "divided") if name in word), "digits")
            shutil.copytree(models / named, run[0])
        elif word.startswith("new/"):
            shutil.copytree(models / "images", path)
        elif path.suffix in (".parquet", ".npz"):
            _write_images(path, 32 if "path/to/class/folders" in words else 8)
        elif word in ("path/to/unet2d", "models/adm64"):
            shutil.copytree(models / path.name, path)
        elif word == "models/mine" and "--out" not in words[: words.index(word) + 1]:
            call("convert", [str(models / "unet2d"), "--schedule", "linear", "--prediction", "eps", "--out", word])
        elif word.startswith("path/to"):
            draw_images(path, ["cat", "dog", "elk"])
    if any("cifar10" in word for word in words):
        shutil.copytree(models / CIFAR10, CIFAR10)


def _value(words: tuple[str, ...], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def _write_images(path: Path, size: int) -> None:
    """Write 60 color images of 3 classes as a file of the format of its name."""
    images = np.random.default_rng(0).integers(0, 256, (60, size, size, 3), dtype=np.uint8)
    labels = np.arange(60) % 3
    if path.suffix == ".npz":
        np.savez(path, images=images, labels=labels)
        return
    import datasets

    content = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    datasets.Dataset.from_dict(content, features).to_parquet(path)


@pytest.mark.parametrize(("script", "words"), parameters())
@pytest.mark.usefixtures("one_thread")
def test_a_command_runs(
    script: str, words: tuple[str, ...], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := next((ONLY_PARSED[word] for word in words if word in ONLY_PARSED), None):
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("sys.argv", [f"{script}.py"])
    monkeypatch.setattr(ddpm.training.dry_run, "TRIAL_IMAGES", 2)
    monkeypatch.setattr(ddpm.training.dry_run, "AFFORDABLE_SECONDS", 0)
    prepare(script, words, models)
    shorter = SHORTER[script]
    if script == "evaluate" and not words[0].startswith("runs/"):
        shorter = ["--bootstrap", "20"]         # images are measured, not drawn
    call(script, [*words, *shorter])


def test_every_script_has_a_command_that_runs_in_the_quick_tests_or_is_slow_for_a_reason() -> None:
    assert {script for _, script, _ in GIVEN} == SHORTER.keys()
    used = {word for _, _, words in GIVEN for word in words}
    assert not [word for word in SLOW_WORDS if word not in used]
