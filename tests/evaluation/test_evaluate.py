"""Whole evaluations, of a model or of existing images, up to evaluation.json."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

import ddpm.processes
from ddpm.atomic import sha256
from ddpm.cli.train import main as train
from ddpm.config.commands import EvaluateCommand
from ddpm.config.run_folders import sample_settings
from ddpm.config.sections import DataConfig
from ddpm.data import ImageData, load_data
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.evaluation.denoiser import SCORES, image_scores
from ddpm.evaluation.evaluate import evaluate
from ddpm.evaluation.image_source import reference_config
from ddpm.evaluation.metrics import METRICS
from ddpm.evaluation.reference_classifier import train_classifier
from ddpm.evaluation.setup import DENOISER_METRICS
from ddpm.io import pipelines
from ddpm.lab.comparison.comparison import differing_settings
from ddpm.models.compilation import compile_network
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes"]
DIGITS = [str(i) for i in range(10)]
QUICK = {"reference": "digits", "steps": 2, "count": 300, "bootstrap": 20, "bound_images": 20, "bound_steps": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a pipeline with random weights. Its images are not digits, but differ between seeds and classes."""
    unet = UNet(resolution=8, in_channels=1, out_channels=1, num_classes=10, channels=8, channel_mult=(1, 2),
                num_res_blocks=1, attention_resolutions=(4,), head_channels=8)
    draws = torch.Generator().manual_seed(0)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5)
    folder = tmp_path_factory.mktemp("model") / "pipeline"
    schedule = NoiseSchedule(SCHEDULES["cosine"](50))
    ClassConditionalPipeline.from_parts(unet, schedule, "v", DIGITS).save_pretrained(folder)
    return folder


def test_processes_compare_with_the_same_images(model, refused, monkeypatch, tmp_path):
    def gather(found: list) -> list:
        is_identity = isinstance(found[0], dict) and "reference" in found[0]
        return [*found, {**found[0], "reference": "other"}] if is_identity else found

    monkeypatch.setattr(ddpm.processes, "gather_object", gather)
    with refused("reference", "process 1", "same files"):
        run(model, metrics="denoising", out=tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def run(model: Path, **options: object) -> dict:
    command = EvaluateCommand(model=model, **{**QUICK, **options})
    return json.loads(evaluate(command, sample_settings(command)).read_text())


@pytest.fixture(scope="module")
def whole(model: Path) -> dict:
    return run(model)


# ------------------------------------------------------------------------------------------------- evaluation.json


def test_all_metrics_are_reported(whole: dict) -> None:
    expected = {metric for metric in METRICS.values() for metric in metric.better} | {"denoising_error", "bits_per_dim"}
    assert whole["metrics"].keys() | {"frechet_distance_infinity"} == expected and whole["skipped"] == {}
    for name, metric in whole["metrics"].items():
        assert np.isfinite(metric["value"]) and metric["count"] > 0 and metric["better"] in ("lower", "higher"), name
        assert metric["low"] is None or metric["low"] <= metric["value"] <= metric["high"], name
        real_baseline = name not in ("memorized", "denoising_error", "bits_per_dim")
        assert (metric["real_baseline"] is not None) == real_baseline, name
    assert len(whole["denoising"]) == 10


def test_sources_and_versions_are_recorded(whole: dict, model: Path) -> None:
    data = load_data("digits")
    assert whole["reference"]["fingerprint"] == data.fingerprint and whole["reference"]["count"] == len(data)
    assert whole["samples"]["count"] == 300 and whole["samples"]["settings"].items() >= {
        "sampler": "ddim", "steps": 2, "guidance_scale": 1.0, "seed": 0,
    }.items()
    assert whole["extractor"]["name"] == "classifier" and len(whole["extractor"]["digest"]) == 64
    assert whole["classifier"]["value"] > 0.9 and whole["classifier"]["held_out"] > 100
    assert len(whole["model"]["weights"]) == 64
    assert whole["versions"]["torch"] == torch.__version__


def test_random_weights_are_far_from_the_real_baseline(whole: dict) -> None:
    metrics = whole["metrics"]
    assert metrics["frechet_distance"]["low"] > 3 * metrics["frechet_distance"]["real_baseline"]["value"]
    assert metrics["accuracy"]["high"] < 0.5 < 0.9 < metrics["accuracy"]["real_baseline"]["value"]
    assert metrics["coverage"]["high"] < metrics["coverage"]["real_baseline"]["low"]


def test_class_proportions_are_those_of_the_reference(whole: dict, model: Path) -> None:
    frequencies = torch.bincount(load_data("digits").labels, minlength=10) * 300 / 1797
    requested = torch.tensor(whole["confusion"]).sum(dim=1)
    assert int(requested.sum()) == 300 and float((requested - frequencies).abs().max()) < 1


def test_pictures_and_samples_are_kept(model: Path, whole: dict) -> None:
    (folder,) = (path.parent for path in model.glob("evaluations/*/evaluation.json"))
    assert folder.name.startswith("ddim2-classifier-")
    for name in ("confusion.png", "neighbors.png"):
        assert len(Image.open(folder / name).convert("L").getcolors(1 << 20)) > 5
    drawn = folder / whole["samples"]["folder"]
    assert len([*drawn.glob("*/seed*.png")]) == 300


def test_repeated_command_prints_the_same_table(model: Path, whole: dict, capsys: pytest.CaptureFixture) -> None:
    before = {p: p.stat().st_mtime_ns for p in model.rglob("*.png")}
    assert run(model) == whole                  # again: nothing is measured twice
    assert before == {p: p.stat().st_mtime_ns for p in model.rglob("*.png")}
    text = capsys.readouterr().out
    for name in [*whole["metrics"], "reference classifier", "seed 0", "300 images", "1,797 images", "sigma"]:
        assert name in text
    assert max(map(len, text.splitlines()[:-2])) <= 120


@pytest.mark.parametrize("metric", SCORES)
def test_metrics_are_means_of_the_scores_of_their_images(model: Path, whole: dict, metric: str) -> None:
    (folder,) = (path.parent for path in model.glob("evaluations/*/evaluation.json")
                 if json.loads(path.read_text()) == whole)
    scores, reported = image_scores(folder, metric), whole["metrics"][metric]
    assert scores.shape == (20,) and scores.dtype == np.float64 and scores.std() > 0
    assert scores.mean() == pytest.approx(reported["value"], rel=1e-12)
    assert reported["high"] - reported["low"] == pytest.approx(2 * 1.959964 * scores.std(ddof=1) / 20**0.5, rel=1e-9)
    assert image_scores(folder, "accuracy") is None


def test_denoising_error_is_the_mean_of_eps_errors(whole: dict) -> None:
    errors = [point["eps_error"] for point in whole["denoising"]]
    assert whole["metrics"]["denoising_error"]["value"] == pytest.approx(sum(errors) / len(errors), rel=1e-9)


def test_chosen_metrics_only(model: Path) -> None:
    found = run(model, metrics="accuracy, bits_per_dim")
    assert found["metrics"].keys() == {"accuracy", "bits_per_dim"} and found["denoising"] is None


def test_denoiser_metrics_are_no_image_metrics(whole: dict) -> None:
    assert not DENOISER_METRICS.keys() & METRICS.keys()
    errors = [point["x_0_error"] for point in whole["denoising"]]
    assert all(point["eps_error"] > 0 for point in whole["denoising"]) and min(errors) > 0


# --------------------------------------------------------------------------------------------------- existing images


def test_the_same_images_from_files(model: Path, whole: dict, tmp_path: Path) -> None:
    """Class folders and an .npz give the metrics of the generated images; a flat folder has no labels."""
    (folder,) = (path.parent for path in model.glob("evaluations/*/evaluation.json") if "accuracy" in path.read_text()
                 and json.loads(path.read_text()) == whole)
    drawn = folder / whole["samples"]["folder"]
    shutil.copytree(drawn, tmp_path / "classes")
    files = sorted((tmp_path / "classes").glob("*/seed*.png"))
    arrays = np.stack([np.asarray(Image.open(file))[..., None] for file in files])
    labels = np.array([int(file.parent.name) for file in files])
    np.savez(tmp_path / "images.npz", arrays, labels)
    (tmp_path / "flat").mkdir()
    for i, file in enumerate(files):
        shutil.copy(file, tmp_path / "flat" / f"{i:05d}.png")
    options = {"steps": None, "count": None}
    found = {name: run(tmp_path / name, **options) for name in ("classes", "images.npz", "flat")}
    for name, result in found.items():
        assert result["model"] is None and result["samples"]["count"] == 300
        assert result["skipped"].keys() == DENOISER_METRICS.keys() | ({"accuracy"} if name == "flat" else set())
        for key, metric in result["metrics"].items():
            # The order of the images differs, and with it the sums' rounding, and which the resampling takes.
            assert metric["value"] == pytest.approx(whole["metrics"][key]["value"], rel=1e-6), (name, key)
        assert (tmp_path / f"{Path(name).stem}-evaluations").is_dir()
    assert found["classes"]["confusion"] == found["images.npz"]["confusion"] == whole["confusion"]


def test_real_images_are_at_the_real_baseline(tmp_path: Path) -> None:
    data = load_data("digits")
    images, labels = data.__getitems__(torch.arange(0, len(data), 2))
    np.savez(tmp_path / "half.npz", images.permute(0, 2, 3, 1).numpy(), labels.numpy())
    found = run(tmp_path / "half.npz", steps=None, count=None)["metrics"]
    assert found["memorized"]["value"] == 1.0           # they are the reference's own
    assert found["frechet_distance"]["value"] < found["frechet_distance"]["real_baseline"]["value"]
    assert found["accuracy"]["value"] > 0.95


# -------------------------------------------------------------------------------------------------------- interruptions


def start(model: Path, processes: int, *options: str) -> subprocess.Popen:
    first = [sys.executable] if processes == 1 else [*LAUNCH, str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true"} if processes > 1 else {}
    settings = [text for key, value in QUICK.items() for text in (f"--{key}", str(value))]
    command = [*first, str(ROOT / "scripts" / "evaluate.py"), str(model), *settings, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen) -> str:
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return out


@pytest.mark.slow
def test_one_process_and_two(model: Path, tmp_path: Path) -> None:
    results = []
    for processes in (1, 2):
        copy = tmp_path / str(processes) / "pipeline"
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("evaluations"))
        end(start(copy, processes, "--batch-size", "32"))
        (file,) = copy.glob("evaluations/*/evaluation.json")
        results.append(json.loads(file.read_text()))
        results[-1]["samples"].pop("source")
        results[-1]["model"].pop("name")
    assert results[0] == results[1]             # not only to 1e-6: the batches are the same, and so are the sums


@pytest.mark.slow
def test_killed_and_resumed(model: Path, tmp_path: Path) -> None:
    """After SIGKILL while features are extracted, the same command writes the same bytes."""
    copy = tmp_path / "pipeline"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("evaluations"))
    options = ("--batch-size", "4", "--metrics", "frechet_distance,accuracy,denoising,bits_per_dim")
    end(start(copy, 1, *options))
    (file,) = copy.glob("evaluations/*/evaluation.json")
    expected = file.read_bytes()
    shutil.rmtree(copy / "evaluations")
    process = start(copy, 1, *options)
    deadline = time.monotonic() + 60
    while not any(copy.glob("evaluations/features/*/*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not file.exists()
    end(start(copy, 1, *options))
    assert file.read_bytes() == expected


@pytest.mark.parametrize(
    "survived", [0, 21, *(pytest.param(number, marks=pytest.mark.slow) for number in (7, 19, 20, 22, 23, 24))]
)
def test_killed_before_any_file(survived: int, model: Path, tmp_path: Path, one_thread: None) -> None:
    """An evaluation that ends before one of its files is renamed continues to the same result."""
    options = {"batch_size": 16, "metrics": "frechet_distance,accuracy,denoising,bits_per_dim", "out": tmp_path / "out"}
    expected = run(model, **{**options, "out": tmp_path / "whole"})
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)        # the parent's other threads do not survive a fork
            left = survived
            replace = Path.replace

            def die(path: Path, target: Path) -> Path:
                nonlocal left
                if "out" in path.parts:
                    if left == 0:
                        os._exit(7)
                    left -= 1
                return replace(path, target)

            Path.replace = die
            run(model, **options)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not (tmp_path / "out" / "evaluation.json").exists()
    found = run(model, **options)
    for result in (found, expected):
        result["samples"].pop("folder")
    assert found == expected


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_split_without_a_reference_belongs_to_the_source_of_the_run(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir()
        (folder / "config.yaml").write_text("data: {source: digits, split: 'train[:1500]'}\n")
        (folder / "run.json").write_text("{}")

    def config(**options: str) -> DataConfig:
        return reference_config(EvaluateCommand(model=run, **options), None)

    assert config().split == config(reference_split="train[:1500]").split == "train[:1500]"
    assert config(reference_split="train[1500:]") == DataConfig(source="digits", split="train[1500:]")
    assert config(reference=str(other)).split == "train[:1500]"
    with pytest.raises(ValueError, match=r"^reference_split: .*--reference"):
        config(reference=str(other), reference_split="train[1500:]")


@pytest.mark.parametrize(("options", "expected"), [
    ({"metrics": "frechet"}, r"^metrics: 'frechet' is not one of .*did you mean frechet_distance"),
    ({"count": 50, "metrics": "frechet_distance"}, r"^frechet_distance: needs \d+ images .* are 50; raise --count"),
    ({"metrics": " , "}, r"^metrics: .*allowed are frechet_distance"),
    ({"extractor": "clasifier"}, r"^extractor: 'clasifier' .*classifier"),
    ({"reference": None}, r"^reference: .*--reference"),
    ({"reference": "nowhere/at/all"}, r"^reference: .*'nowhere/at/all'"),
    ({"steps": 51}, r"51"),
    ({"held_out": "digits"}, r"^held_out: .*other images"),
    ({"held_out_split": "test"}, r"^held_out_split: 'test' .*train"),
    ({"held_out_split": "train[1500:]"}, r"^held_out_split: 297 images of train\[1500:1797\] .*other rows"),
    ({"reference_split": "train[1500"}, r"^reference_split: 'train\[1500' .*use train\[:1500\]"),
])
def test_mistakes_with_a_model(options: dict, expected: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        run(model, out=tmp_path / "out", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "evaluation.json").exists()


def test_too_few_images_are_an_error_before_sampling(model: Path) -> None:
    with pytest.raises(ValueError, match=r"^frechet_distance: needs"):
        run(model, count=50, seed=1_000_000, metrics="accuracy,frechet_distance")
    assert not any(path.name.startswith("seed1000") for path in model.rglob("*.png"))


def test_rare_classes_may_get_no_image(model: Path) -> None:
    found = run(model, count=5, metrics="accuracy,kernel_distance")
    assert len(found["class_accuracies"]) == 5 and found["metrics"]["accuracy"]["count"] == 5


def test_mistakes_with_images(tmp_path: Path) -> None:
    data = load_data("digits")
    images, labels = data.__getitems__(torch.arange(400))
    arrays = images.permute(0, 2, 3, 1).numpy()
    kept = labels.numpy() != 3
    chosen = {"class": "accuracy", "few": "frechet_distance"}
    cases = {
        "sizes": ({"arr_0": arrays[:, :6, :6]}, r"6x6.*8x8"),
        "range": ({"arr_0": arrays / 255.0}, r"uint8 from 0 to 255"),
        "class": ({"arr_0": arrays[kept], "arr_1": labels.numpy()[kept]}, r"^accuracy: .*'3'.*--metrics"),
        "few": ({"arr_0": arrays[:20]}, r"^frechet_distance: .*--metrics"),
    }
    for name, (content, expected) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **content)
        with pytest.raises(ValueError, match=expected) as error:
            run(tmp_path / f"{name}.npz", steps=None, count=None, metrics=chosen.get(name))
        assert "\n" not in str(error.value), name
    with pytest.raises(ValueError, match=r"^sampler: .*omit the option"):
        run(tmp_path / "few.npz", steps=None, count=None, sampler="ddim")
    with pytest.raises(ValueError, match=r"run directory"):
        run(tmp_path / "nothing", steps=None, count=None)


def test_metrics_with_too_few_images_are_skipped(model: Path) -> None:
    found = run(model, count=50)
    reason = found["skipped"]["frechet_distance"]
    assert re.fullmatch(r"needs \d+ images or more for \d+ features, there are 50", reason)
    assert "frechet_distance" not in found["metrics"] and "accuracy" in found["metrics"]


def test_denoiser_metrics_generate_no_images(model: Path, capsys: pytest.CaptureFixture) -> None:
    found = run(model, seed=1_000_000, metrics="bits_per_dim")
    assert found["metrics"].keys() == {"bits_per_dim"} and found["extractor"]["features"] is None
    assert "sampled by" not in capsys.readouterr().out
    assert not any(path.name.startswith("seed1000") for path in model.rglob("*.png"))


def test_a_classifier_of_other_images_is_not_used_for_accuracy(model: Path, cache: Path, tmp_path: Path) -> None:
    """It provides features only; accuracy comes from a classifier of the reference, with its order of classes."""
    data = load_data("digits")
    images, labels = data.__getitems__(torch.arange(0, len(data), 3))
    turned = ImageData(images, 9 - labels, tuple(reversed(DIGITS)), fingerprint="turned")
    train_classifier(turned, "cpu").save(tmp_path)
    files = {file.name: sha256(file) for file in tmp_path.iterdir()}
    (tmp_path / "MANIFEST.json").write_text(json.dumps(files))
    found, usual = (run(model, extractor=e, metrics="accuracy,kernel_distance") for e in (str(tmp_path), "classifier"))
    assert found["metrics"]["accuracy"] == usual["metrics"]["accuracy"] and found["classifier"] == usual["classifier"]
    assert found["metrics"]["kernel_distance"] != usual["metrics"]["kernel_distance"]


def test_another_prediction_type_is_another_model(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pipeline"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("evaluations", "MANIFEST.json"))
    first = run(copy, metrics="kernel_distance")
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("v_prediction", "sample"))
    second = run(copy, metrics="kernel_distance")
    assert first["samples"]["digest"] != second["samples"]["digest"]
    assert first["metrics"] != second["metrics"]


def test_truncated_files_are_written_again(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pipeline"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("evaluations"))
    first = run(copy, metrics="accuracy")
    for i, file in enumerate(copy.glob("evaluations/features/*/*.safetensors")):
        file.write_bytes(file.read_bytes()[: 50 * i])
    found = run(copy, metrics="accuracy,kernel_distance")
    assert found["metrics"]["accuracy"] == first["metrics"]["accuracy"]


def test_class_names_must_be_distinct(model: Path, tmp_path: Path) -> None:
    data = load_data("digits")
    images, labels = data.__getitems__(torch.arange(400))
    names = ["0", "1", "2", "3", "4", "5", "6", "1", "8", "9"]
    arrays = images.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "twice.npz", images=arrays, labels=labels.numpy(), class_names=np.array(names))
    with pytest.raises(ValueError, match=r"^reference: .*'1'.* different name"):
        run(model, reference=str(tmp_path / "twice.npz"))


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(data.__getitems__(torch.arange(20))[0]):
        Image.fromarray(image[0].numpy()).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.chdir(tmp_path / "images")
    run(Path("."), steps=None, count=None, metrics="precision_recall")
    assert (tmp_path / "images-evaluations").is_dir() and len([*Path().iterdir()]) == 20


def test_the_compiled_network_measures_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """One graph serves for drawing and for both metrics of the denoiser, whose last batches are short."""
    monkeypatch.setattr(pipelines, "compile_network", lambda unet, cuda_graphs: compile_network(unet, backend="eager"))
    options = {"metrics": "accuracy,denoising,bits_per_dim", "batch_size": 50}
    expected = run(model, out=tmp_path / "eager", **options)
    assert "compiling" not in capsys.readouterr().out
    torch._dynamo.reset()
    counters.clear()
    found = run(model, out=tmp_path / "compiled", compile=True, **options)
    assert counters["stats"]["unique_graphs"] == 1
    assert re.search(r"compiling took \d+ s", capsys.readouterr().out)
    assert found["samples"]["settings"]["compile"] and "compile" not in expected["samples"]["settings"]
    assert differing_settings(expected, found) == []
    for name, metric in expected["metrics"].items():        # batches of other sizes round differently
        assert found["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-4), name


def test_the_precision_is_a_setting_of_the_images(model: Path, tmp_path: Path) -> None:
    full, half = (
        run(model, out=tmp_path / precision, metrics="denoising,bits_per_dim", mixed_precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert half["samples"]["settings"]["mixed_precision"] == "bf16"
    assert full["samples"]["digest"] != half["samples"]["digest"]
    assert differing_settings(full, half) == ["mixed_precision: fp32 and bf16"]
    for name, metric in full["metrics"].items():
        # bf16 has a relative error of 2^-9 in each layer, which is small compared with the errors of random weights.
        assert 0 < abs(half["metrics"][name]["value"] / metric["value"] - 1) < 0.02, name
    assert not {"mixed_precision", "compile"} & full["samples"]["settings"].keys()      # as in older versions
    with pytest.raises(ValueError, match=r"mixed_precision.*--out"):
        run(model, out=tmp_path / "fp32", metrics="denoising,bits_per_dim", mixed_precision="bf16")


@pytest.mark.slow
def test_half_precision_hardly_changes_the_metrics_of_a_trained_model(tmp_path: Path, one_thread: None) -> None:
    """The tolerances are a tenth of the width of the interval of 500 images, or 1 % of the metric."""
    path = tmp_path / "run"
    train([
        "--run-dir", str(path), "--model.channels", "16", "--model.head_channels", "16", "--train.steps", "200",
        "--train.batch_size", "64", "--train.sample_every", "0", "--sample.steps", "2", "--tracking.wandb", "off",
    ])
    full, half = (
        run(path, reference=None, steps=10, count=500, bound_images=32, bound_steps=10, mixed_precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert full["metrics"]["accuracy"]["value"] > 0.5       # trained far enough to be sensitive to rounding
    for name, metric in full["metrics"].items():
        width = 0.0 if metric["low"] is None else metric["high"] - metric["low"]
        allowed = max(0.1 * width, 0.01 * abs(metric["value"]))
        assert half["metrics"][name]["value"] == pytest.approx(metric["value"], abs=allowed), name


def test_another_evaluation_in_the_same_folder(model: Path, tmp_path: Path) -> None:
    run(model, out=tmp_path / "out", metrics="accuracy")
    with pytest.raises(ValueError, match=r"out: .*metrics.*--out"):
        run(model, out=tmp_path / "out", metrics="accuracy,kernel_distance")
