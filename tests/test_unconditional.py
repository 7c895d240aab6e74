"""Images without classes: a whole run, from training to every command, and the pipeline."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ddpm.cli import ablate, compare, convert, evaluate, probe, push, sample, train
from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import Config, DataConfig, ModelConfig, SampleConfig
from ddpm.config.yaml_files import read_config
from ddpm.data import load_data
from ddpm.diffusion.sampling import class_seeds
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.evaluation.classes import proportional_labels
from ddpm.evaluation.image_source import images_from_model, load_real_images
from ddpm.io.pictures import grid_columns
from ddpm.io.pipelines import load_pipeline
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline
from ddpm.training.build import build_unet

pytestmark = pytest.mark.usefixtures("one_thread")

Refused = Callable[..., AbstractContextManager[None]]

IMAGES = 24
UNET = {"resolution": 8, "in_channels": 1, "out_channels": 1, "channels": 8, "channel_mult": (1, 2)}
UNET |= {"num_res_blocks": 1, "attention_resolutions": (), "head_channels": 8}
SCHEDULE = NoiseSchedule(SCHEDULES["cosine"](100))
SMALL = ["--model.channels", "8", "--model.head_channels", "8", "--model.norm_groups", "2", "--diffusion.num_timesteps"]
SMALL += ["100", "--train.batch_size", "4", "--train.lr_schedule", "constant", "--train.warmup_steps", "0"]
SMALL += ["--sample.steps", "3", "--sample.per_class", "1", "--tracking.wandb", "off", "--train.log_every", "1"]
EXTRACTOR = '''
import torch.nn.functional as F

class Pooled:
    digest = "pooled"

    def extract(self, images):
        return F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1), None
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images without class folders."""
    folder = tmp_path_factory.mktemp("source") / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module of an extractor, in which the commands run."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "own_features.py").write_text(EXTRACTOR)
    return folder


@pytest.fixture(autouse=True)
def first_process(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("sys.argv", ["train.py"])


def trained(source: Path, run: Path, *options: str, steps: int = 4) -> Path:
    train.main(["--data.source", str(source), *SMALL, "--train.steps", str(steps), *options, "--run-dir", str(run)])
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        return trained(source, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call a command that exits with code 2 after one line; return the line."""

    def call(command: Callable[[list[str]], None], *argv: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            command([*map(str, argv)])
        err = capsys.readouterr().err
        assert exit_.value.code == 2 and err.count("\n") == 1, err
        return err

    return call


# ---------------------------------------------------------------------------------------------------------- training


def test_a_resumed_run_equals_an_uninterrupted_one(source: Path, run: Path, tmp_path: Path) -> None:
    trained(source, tmp_path / "parted", steps=2)
    trained(source, tmp_path / "parted")
    whole, parted = weights(run), weights(tmp_path / "parted")
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    assert whole["class_embed.weight"].shape[0] == 1


@pytest.mark.parametrize("probability", ["0", "0.9"])
def test_class_dropout_has_no_effect(probability: str, source: Path, run: Path, tmp_path: Path) -> None:
    trained(source, tmp_path / "other", "--diffusion.class_dropout_prob", probability)
    ours, theirs = weights(run), weights(tmp_path / "other")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("conditioning", ["both", "timestep", "class", "none", "cross_attention"])
def test_what_conditioning_means_is_told(
    conditioning: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trained(source, tmp_path / "run", "--model.conditioning", conditioning, "--dry-run")
    told = capsys.readouterr().out
    assert "diffusion.class_dropout_prob" in told
    assert (f"model.conditioning {conditioning}" in told) == (conditioning in ("class", "cross_attention"))


def test_a_grid_of_samples_is_nearly_square(run: Path) -> None:
    """Four images of 8 x 8 pixels, enlarged to 48, in two rows with gaps of 2 and no margin for names."""
    assert Image.open(run / "samples" / "step_00000004.png").size == (102, 102)


def test_rows_of_a_grid() -> None:
    assert [grid_columns(count) for count in (1, 4, 7, 32, 36)] == [1, 2, 3, 8, 6]
    for count in range(1, 200):
        columns = grid_columns(count)
        rows = -(-count // columns)
        assert rows <= columns <= 2 * count**0.5 + 2 and (rows - 1) * columns < count
        if count % columns:         # then no grid of about this shape is full
            assert not any(count % other == 0 for other in range(columns, 2 * columns + 1))


@pytest.mark.parametrize(("options", "expected"), [
    (("--data.shuffle_labels", "true"), ("data.shuffle_labels", "use false")),
    (("--evaluation.every", "2"), ("evaluation.extractor", "inception or dinov2")),
    (("--evaluation.every", "2", "--evaluation.extractor", "own_features:Pooled", "--evaluation.metric", "accuracy"),
     ("evaluation.metric", "frechet_distance")),
])
def test_options_that_need_classes(
    options: tuple[str, ...], expected: tuple[str, ...], source: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    argv = ("--data.source", source, *SMALL, *options, "--run-dir", tmp_path / "run")
    line = fails(train.main, *argv)
    assert all(part in line for part in expected), line
    assert fails(train.main, *argv, "--dry-run") == line
    assert not (tmp_path / "run").exists()


def test_guidance_of_a_preset_is_left_out(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guidance needs classes, and presets have some; the run is drawn without, and its own configuration says so."""
    preset = Path(__file__).parents[1] / "configs" / "own_32.yaml"
    small = ("--model.channel_mult", "[0.5, 1]", "--model.attention_resolutions", "[]", "--train.batch_size", "4")
    run = trained(source, tmp_path / "run", "--config", str(preset), *small)
    assert "sample.guidance_scale: 1.5 has no effect" in capsys.readouterr().err
    assert read_config(run / "config.yaml").sample.guidance_scale == 1
    trained(source, run, "--config", str(preset), *small)         # again: it is the same run


def test_evaluation_during_training(source: Path, tmp_path: Path) -> None:
    options = ("--evaluation.every", "2", "--evaluation.extractor", "own_features:Pooled", "--evaluation.count", "8")
    run = trained(source, tmp_path / "run", *options, "--evaluation.steps", "2")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [record for record in records if "evaluation/frechet_distance" in record]
    assert [record["step"] for record in measured] == [2, 4] and (run / "best").is_dir()
    assert not any("evaluation/accuracy" in record for record in records)


def test_fine_tuning_from_classes_to_none_and_back(source: Path, run: Path, tmp_path: Path) -> None:
    unet = UNet(**UNET, num_classes=2)
    ClassConditionalPipeline.from_parts(unet, SCHEDULE, "v", ["cat", "dog"]).save_pretrained(tmp_path / "classes")

    def tuned(pretrained: Path, data: DataConfig) -> UNet:
        config = Config(data=data, model=ModelConfig(pretrained=str(pretrained)))
        config = config.with_options({"diffusion.num_timesteps": 100})
        return build_unet(config, load_data(data.source))

    without = tuned(tmp_path / "classes", DataConfig(source=str(source)))
    assert without.config.num_classes == 0 and without.null_label == 0
    assert torch.equal(without.class_embed.weight[0], unet.class_embed.weight[2])       # the null class
    with_classes = tuned(run / "pipeline", DataConfig())
    assert with_classes.config.num_classes == 10 and with_classes.null_label == 10
    assert torch.equal(with_classes.class_embed.weight[10], weights(run)["class_embed.weight"][0])


# ---------------------------------------------------------------------------------------------------------- drawing


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_images_are_counted_not_classes(run: Path, tmp_path: Path) -> None:
    sample.main([str(run), "--per-class", "3", "--seed", "5", "--out", str(tmp_path / "out")])
    assert files(tmp_path / "out") == ["grid.png", *(f"none/seed00000{seed}.png" for seed in (5, 6, 7))]
    assert Image.open(tmp_path / "out" / "grid.png").size == (152, 52)


@pytest.mark.parametrize(("options", "expected"), [
    (("--classes", "cat"), ("classes: 'cat'", "leave")),
    (("--classes", "0"), ("classes: '0'", "leave")),
    (("--blend", "3"), ("blend: ", "--walk")),
    (("--swap",), ("swap: ", "--walk")),
    (("--guidance-scale", "2"), ("guidance-scale: ", "use 1")),
])
def test_drawing_options_that_need_classes(
    options: tuple[str, ...], expected: tuple[str, ...], run: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    line = fails(sample.main, run, *options, "--out", tmp_path / "out")
    assert all(part in line for part in expected), line
    assert not (tmp_path / "out").exists()


def test_walks_go_from_seed_to_seed(run: Path, tmp_path: Path) -> None:
    sample.main([str(run), "--walk", "3", "--per-class", "1", "--out", str(tmp_path / "walk")])
    sample.main([str(run), "--per-class", "2", "--out", str(tmp_path / "ends")])
    walk = [tmp_path / "walk" / "seed 0 to 1" / f"00{i}.png" for i in range(3)]
    assert files(tmp_path / "walk")[1:] == [str(path.relative_to(tmp_path / "walk")) for path in walk]
    for end, seed in ((walk[0], 0), (walk[2], 1)):
        same = tmp_path / "ends" / "none" / f"seed00000{seed}.png"
        drawn, other = (np.asarray(Image.open(file)).astype(int) for file in (end, same))
        assert np.abs(drawn - other).max() <= 1         # rounding of the interpolated noise


@pytest.mark.parametrize("kind", ["png", "npz", "parquet"])
def test_drawn_images_can_be_trained_on(kind: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sample.main([str(run), "--per-class", "4", "--format", kind, "--out", str(out)])
    if kind == "npz":
        assert sorted(np.load(out / "samples.npz").files) == ["images", "seeds"]
    source = {"png": out / "none", "npz": out / "samples.npz"}.get(kind, out)
    data = load_data(str(source), labels="none" if kind == "parquet" else "auto")       # the table has other columns
    assert data.class_names == () and data.labels.tolist() == [0] * 4


# ----------------------------------------------------------------------------------------------------------- measuring


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_what_needs_no_classes_is_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small = ["--bound-images", "8", "--bound-steps", "2", "--bootstrap", "20", "--count", "12"]
    evaluate.main([str(run), *small, "--out", str(tmp_path / "plain")])
    found = evaluation(tmp_path / "plain")
    assert {*found["metrics"]} == {"denoising_error", "bits_per_dim"} and found["classifier"] is None
    assert "inception" in found["skipped"]["frechet_distance"] and "classes" in found["skipped"]["accuracy"]
    assert "frechet_distance: skipped" in capsys.readouterr().out
    evaluate.main([str(run), *small, "--extractor", "own_features:Pooled", "--out", str(tmp_path / "own")])
    found = evaluation(tmp_path / "own")
    assert {"frechet_distance", "kernel_distance", "coverage", "memorized", "denoising_error"} <= {*found["metrics"]}
    assert {*found["skipped"]} == {"accuracy", "inception_score"}


def test_metrics_that_need_classes(run: Path, source: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    for options, expected in (
        (("--metrics", "accuracy", "--extractor", "inception"), "metrics: accuracy"),
        (("--metrics", "frechet_distance"), "inception and dinov2"),
    ):
        line = fails(evaluate.main, run, *options, "--out", tmp_path / "out")
        assert expected in line and "denoising,bits_per_dim" in line
    line = fails(evaluate.main, source, "--reference", source)
    assert "metrics: " in line and "inception" in line


def test_classes_of_images_and_of_held_out_images_are_ignored(run: Path, source: Path, tmp_path: Path) -> None:
    for i in range(8):
        folder = tmp_path / "images" / ("cat" if i < 4 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes((source / f"{i}.png").read_bytes()[:-1] + b"\x82")
    images = str(tmp_path / "images")
    options = ["--extractor", "own_features:Pooled", "--metrics", "kernel_distance,denoising", "--bootstrap", "20"]
    evaluate.main([images, "--reference", str(source), *options, "--out", str(tmp_path / "disk")])
    assert "kernel_distance" in evaluation(tmp_path / "disk")["metrics"]
    options += ["--bound-images", "4", "--count", "8", "--held-out", images]
    evaluate.main([str(run), *options, "--out", str(tmp_path / "run")])
    assert evaluation(tmp_path / "run")["likelihood_images"] == {"count": 4, "held_out": True}


def test_a_model_with_classes_is_compared_with_images_without(source: Path, tmp_path: Path) -> None:
    """There are equally many images of each class; the denoiser cannot be measured without the classes."""
    names = ["cat", "dog", "horse"]
    made = ClassConditionalPipeline.from_parts(UNet(**UNET, num_classes=3), SCHEDULE, "v", names)
    made.save_pretrained(tmp_path / "model")
    command = EvaluateCommand(model=tmp_path / "model", reference=str(source), count=6)
    data = load_real_images(DataConfig(source=str(source)), "reference")
    images = images_from_model(command, SampleConfig(steps=2), data, made, tmp_path / "model", None)
    images.get()
    assert images.folder is not None and images.labels is None
    assert {path.name: len(files(path)) for path in images.folder.iterdir() if path.is_dir()} == dict.fromkeys(names, 2)
    options = ["--extractor", "own_features:Pooled", "--bootstrap", "20", "--count", "6"]
    evaluate.main([str(tmp_path / "model"), "--reference", str(source), *options, "--out", str(tmp_path / "out")])
    found = evaluation(tmp_path / "out")
    assert "kernel_distance" in found["metrics"] and "classes" in found["skipped"]["denoising"]


def test_pages_say_what_there_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--extractor", "own_features:Pooled", "--metrics", "kernel_distance", "--count", "8"]
    evaluate.main([str(run), *options, "--out", str(run / "evaluations" / "shown")])
    compare.main([str(run), "--out", str(tmp_path / "comparison.html")])
    page = (tmp_path / "comparison.html").read_text()
    assert "no class <small" in page and "data:image/png" in page and "no classes" in page
    probe.main([str(run), "--images", "20", "--timesteps", "3", "--out", str(tmp_path / "probe.html")])
    page, results = (tmp_path / "probe.html").read_text(), json.loads((tmp_path / "probe.json").read_text())
    left_out = {name for name, reason in results["left_out"].items() if "no classes" in reason}
    assert {"class swap", "class separability", "sensitivity to the class"} < left_out
    assert "computed from the timestep." in page and "what the image should show" not in page
    assert {row["over"] for row in results["mean_ablations"]} == {"timestep"}
    assert "Without classes" in capsys.readouterr().out


def written_study(source: Path, folder: Path, **changes: object) -> Path:
    """Write a study of two arms and two seeds."""
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    options = {option.removeprefix("--"): value if value == "off" else yaml.safe_load(value) for option, value in pairs}
    study = {
        "question": "Does a scale help?", "metric": "denoising_error", "seeds": [0, 1],
        "base": {**options, "data.source": str(source), "train.steps": 2},
        "arms": {"adagn": {}, "adagn_shift": {"model.norm": "adagn_shift"}},
        "evaluation": {"bound_images": 4, "bound_steps": 2, "bootstrap": 20, "count": 4},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**study, **changes}))
    return file


@pytest.mark.parametrize(("changes", "expected"), [
    ({"metric": "accuracy"}, ("metric: accuracy", "denoising_error")),
    ({"metric": "frechet_distance"}, ("metric: frechet_distance", "inception and")),
    ({"evaluation": {"metrics": "denoising,precision_recall"}}, ("metrics: precision_recall", "inception and")),
    ({"evaluation": {"guidance_scale": 2.0}}, ("evaluation.guidance_scale", "use 1")),
    ({"arms": {"a": {}, "b": {"data.shuffle_labels": True}}}, ("arms.b: data.shuffle_labels", "use false")),
])
def test_studies_that_need_classes(
    changes: dict, expected: tuple[str, ...], source: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    file = written_study(source, tmp_path, **changes)
    line = fails(ablate.main, "--study", file, "--run-dir", tmp_path / "study")
    assert all(part in line for part in expected), line
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_study_is_decided_by_the_denoising_error(source: Path, tmp_path: Path) -> None:
    ablate.main(["--study", str(written_study(source, tmp_path)), "--run-dir", str(tmp_path / "study")])
    evaluations = [evaluation(folder) for folder in (tmp_path / "study").glob("*/seed_*/evaluations/study")]
    assert len(evaluations) == 4 and all("denoising_error" in found["metrics"] for found in evaluations)
    assert (tmp_path / "study" / "outcome.json").is_file()


# ------------------------------------------------------------------------------------------------------------- sharing


def test_the_example_of_the_card_draws_without_this_package(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (run / "pipeline" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert "unconditional-image-generation" in front["tags"] and "class-conditional" not in front["tags"]
    assert "# Unconditional diffusion model" in card and "per class" not in card
    (example,) = re.findall(r"```python\n(.*?)```", card, re.S)
    example = example.replace("path/to/this/folder", str(run / "pipeline")).replace("=50", "=2")
    drawn: dict = {}
    exec(example, drawn)
    assert [image.size for image in drawn["images"]] == [(8, 8)] * 4
    assert type(drawn["pipeline"]).__module__.startswith("diffusers_modules.")
    assert not json.loads((run / "pipeline" / "model_index.json").read_text())["id2label"]
    ours = load_pipeline(run)(num_images=4, num_inference_steps=2, output_type="uint8").images
    theirs = drawn["pipeline"](num_images=4, num_inference_steps=2, output_type="uint8").images
    assert torch.equal(ours, theirs)


def test_upload_and_conversion(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    push.main([str(run), "--to", "owner/name", "--dry-run"])
    convert.main([str(run), "--to", "diffusers", "--out", str(tmp_path / "theirs")])
    plain = diffusers.UNet2DModel.from_pretrained(tmp_path / "theirs" / "unet")
    unet = load_pipeline(run).unet
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 90])
    with torch.no_grad():
        torch.testing.assert_close(plain(x, t).sample, unet(x, t).sample, rtol=1e-4, atol=1e-5)    # rounding
    convert.main([str(tmp_path / "theirs"), "--out", str(tmp_path / "ours")])
    assert load_pipeline(tmp_path / "ours").class_names == [] and "no classes" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ pipeline


@pytest.fixture(scope="module")
def pipeline() -> ClassConditionalPipeline:
    unet = UNet(**UNET, num_classes=0).eval()
    draws = torch.Generator().manual_seed(0)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5)
    made = ClassConditionalPipeline.from_parts(unet, SCHEDULE, "v", ())
    made.set_progress_bar_config(disable=True)
    return made


QUICK = {"num_inference_steps": 2, "output_type": "uint8", "batch_size": 2}


def test_without_guidance_the_denoiser_is_the_network(pipeline: ClassConditionalPipeline) -> None:
    """x_0 = sqrt(a) x_t - sqrt(1 - a) v."""
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 40, 99])
    with torch.no_grad():
        found = pipeline.denoiser(clip=False)(x, t, pipeline.labels([None] * 3)).x_0
        v = pipeline.unet(x, t).sample
    a = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1).double()
    torch.testing.assert_close(found.double(), a.sqrt() * x - (1 - a).sqrt() * v, rtol=0, atol=1e-5)     # rounding


def test_images_by_number(pipeline: ClassConditionalPipeline) -> None:
    drawn = pipeline(num_images=3, seeds=7, **QUICK).images
    assert drawn.shape == (3, 1, 8, 8) and len({image.numpy().tobytes() for image in drawn}) == 3
    assert torch.equal(drawn, pipeline([None] * 3, seeds=[7, 8, 9], **QUICK).images)
    assert torch.equal(drawn[:1], pipeline(seeds=7, **QUICK).images)
    assert torch.equal(drawn[1:2], pipeline(num_images=1, seeds=[8], **QUICK).images)


def test_several_images_of_one_class() -> None:
    made = ClassConditionalPipeline.from_parts(UNet(**UNET, num_classes=2).eval(), SCHEDULE, "v", ["cat", "dog"])
    made.set_progress_bar_config(disable=True)
    for label in ("dog", {"cat": 0.5, "dog": 0.5}, None):
        assert torch.equal(made(label, num_images=3, **QUICK).images, made([label] * 3, **QUICK).images)


def test_mistakes_of_labels_and_numbers(pipeline: ClassConditionalPipeline, refused: Refused) -> None:
    for label in ("cat", 0, "0", {"cat": 1.0}):
        with refused("classes: ", "leave"):
            pipeline(label, **QUICK)
    for number in (0, -1, 2.5, True):
        with refused("num_images: ", "1 or more"):
            pipeline(num_images=number, **QUICK)
    with refused("num_images: ", "single"):
        pipeline([None, None], num_images=2, **QUICK)
    with refused("guidance_scale: ", "use 1"):
        pipeline(num_images=2, guidance_scale=2.0, **QUICK)


# ------------------------------------------------------------------------------------------------------------ the rule


def test_without_classes_there_is_one_row_of_labels() -> None:
    assert class_seeds([0, 0, 0], seed=5, num_classes=0) == [5, 6, 7]
    assert proportional_labels(torch.zeros(4, dtype=torch.int64), 0, 3).tolist() == [0, 0, 0]
