"""The probe as a whole: results for small models of each kind, reasons for missing results, and the command."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddpm.cli.parser import parse_command
from ddpm.config.commands import ProbeCommand
from ddpm.config.sections import DataConfig
from ddpm.data.slices import parse_split
from ddpm.diffusion.divergence import Diverged
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.evaluation.estimates import Estimate
from ddpm.evaluation.image_source import reference_config
from ddpm.evaluation.modulation import modulated_layers
from ddpm.lab.probe.inputs import _as_evaluation, _held_out
from ddpm.lab.probe.measurements import MAX_CLASSES, choose_classes
from ddpm.lab.probe.probe import _file_name, command_line, probe
from ddpm.lab.probe.results import ProbeResults, from_json
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("one_thread")


def saved(folder: Path, names: tuple[str, ...], **options: object) -> Path:
    """Save a pipeline with a small model of 8x8 gray images, whose weights are not zero, as after training."""
    shape = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": len(names), "channels": 8}
    levels = {"channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (), "head_channels": 8}
    unet = UNet(**{**shape, **levels, **options})
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in modulated_layers(unet):
            layer.norm.proj.weight.normal_(0, 0.1, generator=draws)
    schedule = NoiseSchedule(SCHEDULES["cosine"](50))
    ClassConditionalPipeline.from_parts(unet, schedule, "eps", names).save_pretrained(folder / "model")
    return folder / "model"


def probed(model: Path, **options: object) -> ProbeResults:
    page = probe(ProbeCommand(model, timesteps=4, images=20, samples=1, **options))
    assert page.read_text().lower().startswith("<!doctype html>")
    return from_json(page.with_suffix(".json").read_text())


def test_a_model_without_images_or_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = probed(saved(tmp_path, (), norm="groupnorm"))
    assert {*found.left_out} == {
        "sign flips and dead channels", "symptoms of failure", "class separability", "mean ablation",
        "sensitivity to the class", "class swap", "analysis of variance over timesteps and classes",
    }
    assert "--reference" in found.left_out["mean ablation"]
    assert "classes" in found.left_out["class swap"]
    assert found.grid.classes == ["none"] and len(found.erasure) == len(found.layers) == 10
    assert found.erasure[0].timestep is not None and found.erasure[0].class_ is None
    assert all(row.timestep == pytest.approx(1) for row in found.variance)
    printed = capsys.readouterr().out
    assert all(f"left out: {name}: " in printed for name in found.left_out)


def test_a_model_on_digits(tmp_path: Path) -> None:
    """The class does not reach any layer of this model, so only the measurements of the class are left out."""
    names = tuple(str(digit) for digit in range(10))
    model = saved(tmp_path, names, conditioning="timestep", channel_mult=(1,))
    found = probed(model, reference="digits", reference_split="train[:50]")
    assert {*found.left_out} == {"erased shift", "class separability", "class swap"}
    assert found.left_out["class swap"] == found.left_out["class separability"]
    assert found.model.images == 20 and found.model.held_out is None
    assert len(found.mean_ablations) == 9 + 5 and len(found.sensitivity) == 10
    # A model that does not depend on the class neither misses it nor reacts to it.
    by_class = [one for one in found.mean_ablations if one.over == "class"]
    assert all(one.relative.value == pytest.approx(0, abs=1e-6) for one in by_class)
    assert all(one.difference.value == pytest.approx(0, abs=1e-6) for one in found.sensitivity)
    assert all(row.class_ + row.interaction == 0 for row in found.variance)


def test_cross_attention_is_not_swapped_by_side(tmp_path: Path) -> None:
    found = probed(saved(tmp_path, ("cat", "dog"), conditioning="cross_attention"))
    assert "cross-attention" in found.left_out["class swap by encoder, middle and decoder"]
    assert "--reference" in found.left_out["class swap"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": "digits", "out": Path("here")}, "out: "),
        ({"out": Path("page.json")}, "out: .*page.json"),
        ({"reference": "digits"}, "reference: .*'0'"),
    ],
)
def test_errors_name_the_option_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    model = saved(tmp_path, ("cat", "dog"))
    with pytest.raises(ValueError, match=words) as problem:
        probe(ProbeCommand(model, **options))
    assert "\n" not in str(problem.value)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, ("cat", "dog"))
    (tmp_path / "run").mkdir()
    config = "data: {source: digits, resolution: 16}\n"
    (tmp_path / "run" / "config.yaml").write_text(config)
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^reference: .*16x16"):
        probe(ProbeCommand(model, reference=str(tmp_path / "run")))


def test_the_command_line_contains_options_that_differ_from_their_defaults() -> None:
    argv = ["my run", "--images", "64", "--reference-split", "test", "--batch-size", "7"]
    command = parse_command(ProbeCommand, "probe.py", argv)
    line = command_line(command)
    assert line == "python scripts/probe.py 'my run' --images 64 --reference-split test --batch-size 7"
    assert command_line(parse_command(ProbeCommand, "probe.py", ["run"])) == "python scripts/probe.py run"


@pytest.mark.parametrize(
    ("split", "fingerprint", "pretrained", "expected"),
    [
        ("train[:1500]", "same", None, False),
        ("train[1000:1600]", "", None, False),
        ("train[1500:]", "", None, True),
        ("train[1500:]", "", "elsewhere", None),
        ("digits", "", None, None),
    ],
)
def test_images_are_held_out_only_if_their_rows_are_known_to_differ(
    tmp_path: Path, split: str, fingerprint: str, pretrained: str | None, expected: bool | None
) -> None:
    model = f"\nmodel: {{pretrained: {pretrained}}}" if pretrained else ""
    (tmp_path / "config.yaml").write_text(f"data: {{source: digits, split: 'train[:1500]'}}{model}\n")
    (tmp_path / "run.json").write_text('{"data": {"fingerprint": "same"}}')
    part = parse_split(split).part(1797) if split.startswith("train") else None
    data = SimpleNamespace(part=part, fingerprint=fingerprint)
    assert _held_out(ProbeCommand(tmp_path), DataConfig(source="digits", split=split), data) is expected
    assert _held_out(ProbeCommand(tmp_path / "elsewhere" / "a/b/c/d"), DataConfig(), data) is None


def test_a_split_without_a_reference_belongs_to_the_source_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {source: digits, split: 'train[:1500]'}\n")
    (tmp_path / "run.json").write_text("{}")
    pipeline = SimpleNamespace(unet=SimpleNamespace(config=SimpleNamespace(resolution=8, in_channels=1)))
    found = reference_config(_as_evaluation(ProbeCommand(tmp_path, reference_split="train[1500:]")), pipeline)
    assert (found.source, found.split, found.resolution, found.channels) == ("digits", "train[1500:]", 8, 1)
    assert reference_config(_as_evaluation(ProbeCommand(tmp_path)), pipeline).split == "train[:1500]"


def test_layers_that_are_not_conditioned_are_not_called_unmoved(tmp_path: Path) -> None:
    found = probed(saved(tmp_path, ("cat", "dog"), condition_at="decoder"))
    sides = {layer.name: layer.side for layer in found.layers}
    assert all((row.unmoved is None) == (sides[row.layer] != "decoder") for row in found.symptoms)


def test_no_swap_is_measured_with_a_classifier_that_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(str(digit) for digit in range(10))
    classifier = SimpleNamespace(accuracy=Estimate(0.14, 0.09, 0.2), class_names=names)
    monkeypatch.setattr("ddpm.lab.probe.measurements.cached_classifier", lambda *_: classifier)
    found = probed(saved(tmp_path, names, channel_mult=(1,)), reference="digits", reference_split="train[:50]")
    assert found.swap is None and "10%" in found.left_out["class swap"]


def test_each_checkpoint_has_its_own_page(tmp_path: Path) -> None:
    for file in ("config.yaml", "run.json"):
        (tmp_path / file).write_text("{}")
    assert _file_name(tmp_path) == "probe.html"
    assert _file_name(tmp_path / "checkpoints" / "step_00000100") == "probe-step_00000100.html"


def test_a_modulation_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = saved(tmp_path, ("cat", "dog"))
    pipeline = ClassConditionalPipeline.from_pretrained(model)
    layer = modulated_layers(pipeline.unet)[2]
    with torch.no_grad():
        layer.norm.proj.bias[0] = torch.nan
    pipeline.save_pretrained(model)
    with pytest.raises(Diverged, match=rf"^.*scale.*{layer.name}.*checkpoint"):
        probe(ProbeCommand(model))


def test_a_split_without_a_run_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, ("cat", "dog"))
    with pytest.raises(ValueError, match=r"^reference_split: .*--reference"):
        probe(ProbeCommand(model, reference_split="train[:50]"))
    (tmp_path / "run").mkdir()
    for file in ("config.yaml", "run.json"):
        (tmp_path / "run" / file).write_text("{}")
    with pytest.raises(ValueError, match=r"^reference_split: .*--reference"):
        probe(ProbeCommand(model, reference=str(tmp_path / "run"), reference_split="train[:50]"))


@pytest.mark.parametrize("count", [0, 1, MAX_CLASSES, MAX_CLASSES + 1, 1000])
def test_classes_are_all_or_evenly_spaced(count: int) -> None:
    found = choose_classes(count)
    assert len(found) == min(count, MAX_CLASSES) and len({*found}) == len(found)
    if count:
        assert (found[0], found[-1]) == (0, count - 1)


@pytest.mark.slow
def test_a_run_on_digits(digits_run: Path, tmp_path: Path) -> None:
    """Run the command as a user types it, on the README's first run; a trained model must use its modulation."""
    out = tmp_path / "probe.html"
    command = [sys.executable, "scripts/probe.py", str(digits_run), "--out", str(out), "--images", "32"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[-1] == str(out)
    found = from_json(out.with_suffix(".json").read_text())
    assert {*found.left_out} == {"erased shift"}
    assert found.model.fingerprint == json.loads((digits_run / "run.json").read_text())["data"]["fingerprint"]
    assert found.model.held_out is False
    # A trained model uses timestep and class: without them the error rises significantly.
    together = {one.over: one.relative for one in found.mean_ablations if one.layer is None and one.part == "both"}
    assert all(estimate.low > 0 for estimate in together.values())
    assert all(row.p_value == 0.001 for row in found.separability)
    resolutions = [point for point in found.swap.points if point.kind == "resolutions"]
    assert resolutions[0].first.low > 0.7 > 0.2 > resolutions[0].second.high
    assert resolutions[-1].second.low > 0.7 > 0.2 > resolutions[-1].first.high
    assert found.sensitivity[-1].difference.low > 0
