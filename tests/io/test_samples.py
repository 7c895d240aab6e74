"""Which images are asked for, and the command as a whole."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config

from ddpm.config.commands import SampleCommand
from ddpm.config.sections import SampleConfig
from ddpm.diffusion.sampling import BetweenSeeds
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io import pipelines, sample_folder
from ddpm.io.pipelines import load_guide, process_digest
from ddpm.io.provenance import weights_digest
from ddpm.io.sample_folder import (
    Classes,
    plan_blends,
    plan_classes,
    plan_swaps,
    plan_walks,
    sample_to_folder,
)
from ddpm.models.compilation import compile_network
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

ASKED = Classes([2, 0], ["cat", "dog", "horse", "none"], 2, 100, 3)
QUICK = SampleConfig(steps=3, per_class=2, batch_size=4)


def test_by_class() -> None:
    plan = plan_classes(ASKED)
    assert plan.labels == [2, 2, 0, 0] and plan.seeds == [102, 105, 100, 103]
    assert [(r.row, r.file, r.label, r.seed) for r in plan.requests[:2]] == [
        ("horse", "seed000102", 2, 102), ("horse", "seed000105", 2, 105),
    ]


def test_the_null_class_is_none() -> None:
    plan = plan_classes(ASKED._replace(ids=[3]))
    assert plan.labels == [None, None] and {r.label for r in plan.requests} == {-1}
    assert plan.requests[0].row == "none"
    unconditional = plan_classes(Classes([0], ["none"], 3, 7, 2))
    assert unconditional.labels == [None] * 3 and unconditional.seeds == [7, 8, 9]


def test_blends_go_from_one_to_the_next() -> None:
    plan = plan_blends(ASKED, 3)
    assert plan.labels[:3] == [{2: 1.0, 0: 0.0}, {2: 0.5, 0: 0.5}, {2: 0.0, 0: 1.0}]
    assert plan.seeds == [102] * 3 + [105] * 3
    assert [r.row for r in plan.requests[::3]] == ["horse to cat, seed 102", "horse to cat, seed 105"]
    assert len({(r.row, r.file) for r in plan.requests}) == 6


def test_walks_go_from_seed_to_seed() -> None:
    plan = plan_walks(ASKED, 5)
    assert len(plan.requests) == 2 * 2 * 5 and plan.labels[:5] == [2] * 5
    assert plan.seeds[:2] == [BetweenSeeds(102, 105, 0.0), BetweenSeeds(102, 105, 0.25)]
    assert plan.seeds[9] == BetweenSeeds(105, 108, 1.0)


def test_swaps_take_over_from_the_finest_level() -> None:
    plan = plan_swaps(ASKED)
    assert plan.labels[:4] == [[2, 2, 2], [0, 2, 2], [0, 0, 2], [0, 0, 0]]
    assert plan.requests[0].row == "cat fine, horse coarse, seed 102"


@pytest.mark.parametrize(("make", "option"), [(lambda asked: plan_blends(asked, 3), "blend"), (plan_swaps, "swap")])
def test_one_class_is_no_pair(make, option: str) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: .*--classes A,B$"):
        make(ASKED._replace(ids=[1]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    unet = UNet(resolution=8, in_channels=1, out_channels=1, num_classes=3, channels=8, channel_mult=(1, 2),
                num_res_blocks=1, attention_resolutions=(4,), head_channels=8)
    draws = torch.Generator().manual_seed(0)
    for p in unet.parameters():
        p.data = torch.randn(p.shape, generator=draws) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5)
    folder = tmp_path_factory.mktemp("model")
    schedule = NoiseSchedule(SCHEDULES["cosine"](50))
    ClassConditionalPipeline.from_parts(unet, schedule, "v", ["cat", "dog", "horse"]).save_pretrained(folder)
    return folder


def draw(model: Path, classes: str | None, settings: SampleConfig, out: Path | None = None, **options: Any) -> None:
    sample_to_folder(SampleCommand(model=model, classes=classes, out=out, **options), settings)


def only_folder(model: Path) -> Path:
    (folder,) = (model / "samples").iterdir()
    return folder


def test_the_folder_is_named_after_what_is_in_it(model: Path, capsys: pytest.CaptureFixture) -> None:
    draw(model, "horse,cat", QUICK)
    folder = only_folder(model)
    assert folder.name.startswith("ddim3-") and (folder / "grid.png").is_file()
    assert sorted(str(p.relative_to(folder)) for p in folder.glob("*/*.png")) == [
        "cat/seed000000.png", "cat/seed000003.png", "horse/seed000002.png", "horse/seed000005.png",
    ]
    assert f"4 images in {folder}" in capsys.readouterr().out
    record = json.loads((folder / "samples.json").read_text())
    assert record["steps"] == 3 and len(record["model"]) == 64 and record["guide"] is None
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.png")}
    draw(model, "horse,cat", QUICK)       # again: nothing to do, and nowhere else
    assert only_folder(model) == folder and before == {p: p.stat().st_mtime_ns for p in folder.glob("*/*.png")}


def test_without_a_batch_size_it_is_that_of_the_resolution(model: Path, tmp_path: Path) -> None:
    """The batch size is recorded, and does not depend on the number of images, so that they are bit-equal."""
    for per_class in (1, 2):
        draw(model, "cat", SampleConfig(steps=3, per_class=per_class), tmp_path / str(per_class))
    records = [json.loads((tmp_path / name / "samples.json").read_text()) for name in ("1", "2")]
    assert [record["batch_size"] for record in records] == [100, 100]           # images of 8x8
    first = Path("cat/seed000000.png")
    assert (tmp_path / "1" / first).read_bytes() == (tmp_path / "2" / first).read_bytes()


def test_a_given_folder_holds_one_drawing(model: Path, tmp_path: Path) -> None:
    draw(model, None, QUICK, tmp_path / "out")
    other = SampleConfig(steps=4, per_class=2, batch_size=4)
    with pytest.raises(ValueError, match=r"out.*steps.*3.*4.*--out") as error:
        draw(model, None, other, tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", [{"blend": 4}, {"walk": 4}, {"swap": True}])
def test_strips(how: dict, model: Path, tmp_path: Path) -> None:
    draw(model, "cat,dog", QUICK, tmp_path / "out", **how)
    rows = [p for p in (tmp_path / "out").iterdir() if p.is_dir() and not p.name.startswith(".")]
    assert len(rows) == (4 if "walk" in how else 2)
    strip = [Image.open(p).tobytes() for p in sorted(rows[0].glob("*.png"))]
    assert len(strip) == (3 if "swap" in how else 4) and len(set(strip)) > 1
    with pytest.raises(ValueError, match=r"png"):
        draw(model, "cat,dog", QUICK, tmp_path / "other", format="parquet", **how)


def test_guided_by_an_earlier_one(model: Path, tmp_path: Path) -> None:
    guided = SampleConfig(steps=3, per_class=2, batch_size=4, guidance_scale=2.0)
    draw(model, "cat", guided, tmp_path / "out", guide=model)       # by itself: no change but rounding
    draw(model, "cat", QUICK, tmp_path / "plain")
    for file in (tmp_path / "plain" / "cat").iterdir():
        pair = (tmp_path / "out" / "cat" / file.name, file)
        a, b = (torch.tensor(list(Image.open(path).tobytes())) for path in pair)
        assert int((a - b).abs().max()) <= 1
    with pytest.raises(ValueError, match=r"^guide: "):
        draw(model, "cat", QUICK, tmp_path / "third", guide=model)
    assert not (tmp_path / "third").exists()


def test_a_checkpoint_written_meanwhile_is_not_mixed_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and guide are found once, so the record describes the weights that draw, on every process."""
    newer = ClassConditionalPipeline.from_pretrained(model)
    newer.unet.conv_in.bias.data += 1.0
    newer.save_pretrained(tmp_path / "newer")
    found: list[Path] = []

    def locate(path: Path) -> Path:
        found.append(path)
        return model if found.count(path) == 1 else tmp_path / "newer"

    monkeypatch.setattr(sample_folder, "locate", locate)
    run, guide = tmp_path / "run", tmp_path / "guide"
    guided = SampleConfig(steps=3, per_class=2, batch_size=4, guidance_scale=2.0)
    draw(run, "cat", guided, tmp_path / "out", guide=guide)
    assert found == [run, guide]
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["model"] == weights_digest(model) and record["guide"] == load_guide(model, "cpu")[1]


def test_a_guide_that_predicts_something_else_is_another_guide(model: Path, tmp_path: Path) -> None:
    v = ClassConditionalPipeline.from_pretrained(model)
    eps = ClassConditionalPipeline.from_parts(v.unet, v.schedule, "eps", v.class_names)
    eps.save_pretrained(tmp_path / "eps")
    assert weights_digest(tmp_path / "eps") == weights_digest(model)
    guided = SampleConfig(steps=3, per_class=2, batch_size=4, guidance_scale=2.0)
    draw(model, "cat", guided, tmp_path / "out", guide=model)
    with pytest.raises(ValueError, match=r"guide .*--out"):
        draw(model, "cat", guided, tmp_path / "out", guide=tmp_path / "eps")


def test_unknown_format(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^format: 'jpg' .*png, parquet, npz"):
        draw(model, None, QUICK, tmp_path / "out", format="jpg")


def test_the_precision_is_a_setting_of_the_images(model: Path, tmp_path: Path) -> None:
    half = dataclasses.replace(QUICK, mixed_precision="bf16")
    draw(model, "cat", QUICK, tmp_path / "full")
    draw(model, "cat", half, tmp_path / "half")
    records = [json.loads((tmp_path / name / "samples.json").read_text()) for name in ("full", "half")]
    # fp32 is what records of older versions without this setting mean.
    assert [record.get("mixed_precision") for record in records] == [None, "bf16"]
    a, b = (np.asarray(Image.open(tmp_path / name / "cat" / "seed000000.png")).astype(int) for name in ("full", "half"))
    assert 0 < abs(a - b).mean() < 3        # bf16 has a relative error of 2^-9 in each layer
    with pytest.raises(ValueError, match=r"mixed_precision \(not set there, bf16 now\).*--out"):
        draw(model, "cat", half, tmp_path / "full")
    draw(model, "cat", half, tmp_path / "half")         # again: nothing to do
    before = {*(model / "samples").glob("*")}
    draw(model, "cat", QUICK)
    draw(model, "cat", half)
    assert len({*(model / "samples").glob("*")} - before) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_float16_without_a_gpu_is_refused_before_anything_is_drawn(model: Path, tmp_path: Path, refused) -> None:
    with refused("mixed_precision", "fp16 needs a GPU", "bf16"):
        draw(model, "cat", dataclasses.replace(QUICK, mixed_precision="fp16"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_compiled_network_draws_the_same_images(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The backend eager traces the network as one graph, but generates no code, which would take longer."""
    monkeypatch.setattr(pipelines, "compile_network", lambda unet, cuda_graphs: compile_network(unet, backend="eager"))
    guided = dataclasses.replace(QUICK, guidance_scale=2.0)
    draw(model, "cat", guided, tmp_path / "eager")
    assert "compiling" not in capsys.readouterr().out
    torch._dynamo.reset()
    counters.clear()
    draw(model, "cat", guided, tmp_path / "compiled", compile=True)
    assert counters["stats"]["unique_graphs"] == 1
    assert re.search(r"compiling took \d+ s", capsys.readouterr().out)
    for file in (tmp_path / "eager" / "cat").iterdir():
        assert (tmp_path / "compiled" / "cat" / file.name).read_bytes() == file.read_bytes()
    assert json.loads((tmp_path / "compiled" / "samples.json").read_text())["compile"] is True
    with pytest.raises(ValueError, match=r"compile.*--out"):
        draw(model, "cat", guided, tmp_path / "compiled")


def test_a_missing_compiler_is_named_before_anything_is_drawn(model: Path, tmp_path: Path, refused) -> None:
    missing = inductor_config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with missing, refused("compile: ", "install g++"):
        draw(model, "cat", QUICK, tmp_path / "out", compile=True)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def five_channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of images with five channels."""
    unet = UNet(resolution=8, in_channels=5, out_channels=5, num_classes=2, channels=8, channel_mult=(1, 2),
                num_res_blocks=1, attention_resolutions=(), head_channels=8)
    folder = tmp_path_factory.mktemp("five")
    schedule = NoiseSchedule(SCHEDULES["cosine"](50))
    ClassConditionalPipeline.from_parts(unet, schedule, "v", ["cat", "dog"]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("formats", ["png", "parquet", "npz,png"])
def test_more_channels_than_a_format_has(formats: str, five_channels: Path, tmp_path: Path, refused) -> None:
    with refused("format", "5", "--format npz"):
        draw(five_channels, None, QUICK, tmp_path / "out", format=formats)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [{}, {"blend": 4}, {"walk": 4}, {"swap": True}])
def test_images_of_five_channels(how: dict, five_channels: Path, tmp_path: Path) -> None:
    draw(five_channels, None, QUICK, tmp_path, format="npz", **how)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["images"].shape[1:] == (8, 8, 5)
        assert len(arrays["labels"] if not how else arrays["rows"]) == len(arrays["seeds"]) == len(arrays["images"])
    assert (tmp_path / "grid.png").is_file()


ROOT = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes"]


def command(model: Path, out: Path, processes: int, *options: str) -> dict[str, bytes]:
    """Files that scripts/sample.py writes, over some processes of one thread each."""
    start = [sys.executable] if processes == 1 else [*LAUNCH, str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*start, str(ROOT / "scripts" / "sample.py"), str(model), "--out", str(out), *options],
        env=environment, capture_output=True, text=True, timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("*/*.png")}


@pytest.mark.slow
def test_the_command_compiles(model: Path, tmp_path: Path) -> None:
    """With the code that torch.compile generates for this machine."""
    options = ["--classes", "cat", "--per-class", "6", "--steps", "4", "--batch-size", "4", "--guidance-scale", "2"]
    plain = command(model, tmp_path / "plain", 1, *options)
    compiled = command(model, tmp_path / "compiled", 1, *options, "--compile")
    assert len(plain) == 6 and plain.keys() == compiled.keys()
    for name in plain:
        a, b = (np.asarray(Image.open(tmp_path / how / name)).astype(int) for how in ("plain", "compiled"))
        assert abs(a - b).max() <= 1        # fused operations round differently


@pytest.mark.slow
def test_one_process_and_two(model: Path, tmp_path: Path) -> None:
    """Equal bytes at an equal batch size, however many processes; one gray level otherwise."""
    options = ["--per-class", "5", "--steps", "6", "--guidance-scale", "2", "--sampler", "dpmpp", "--batch-size"]
    one = command(model, tmp_path / "one", 1, *options, "4")
    two = command(model, tmp_path / "two", 2, *options, "4")
    other = command(model, tmp_path / "other", 2, *options, "3")
    assert len(one) == 15 and one == two and one.keys() == other.keys()
    assert (tmp_path / "one" / "grid.png").read_bytes() == (tmp_path / "two" / "grid.png").read_bytes()
    for name in one:
        a, b = (np.asarray(Image.open(tmp_path / folder / name)).astype(int) for folder in ("one", "other"))
        assert abs(a - b).max() <= 1, name


def test_the_process_digest_depends_on_the_architecture() -> None:
    small = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 2, "channels": 8,
             "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 8}
    schedule = NoiseSchedule(torch.tensor([0.125, 0.25, 0.5], dtype=torch.float64))

    def digest(**options: object) -> str:
        unet = UNet(**small, **options)
        return process_digest(ClassConditionalPipeline.from_parts(unet, schedule, "v", ["a", "b"]))

    assert digest() == digest(conditioning="both", condition_at="all")        # the defaults
    others = [digest(conditioning="none"), digest(condition_at="middle"), digest(emb_channels=48)]
    assert len({digest(), *others}) == 4
