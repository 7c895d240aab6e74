"""The benchmark command end to end, with the smallest network, and its mistakes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from ddpm.cli.benchmark import main
from ddpm.config.commands import BenchmarkCommand
from ddpm.lab.benchmark.benchmark import plan_parts
from ddpm.lab.benchmark.comparisons import COMPARISONS, set_up_bench
from ddpm.lab.benchmark.setting import (
    BENCHMARK_PRESETS,
    OBJECTIVE,
    check_equal_outputs,
    choose_setting,
    copy_to_diffusers,
    draw_inputs,
)


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])


def test_both_sides_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--rounds", "3", "--batch-size", "8", "--sampling-steps", "3", "--out", str(tmp_path / "new" / "folder")]
    main([*words, "--only", "training,forward,sampling,data"])
    result = json.loads((tmp_path / "new" / "folder" / "benchmark.json").read_text())
    printed = capsys.readouterr().out
    assert (tmp_path / "new" / "folder" / "benchmark.txt").read_text() == printed
    assert [*result["comparisons"]] == ["training", "forward", "sampling", "data"] and not result["failed"]
    for name, found in result["comparisons"].items():
        for side in ("ours", "diffusers") if name != "data" else ("ours",):
            assert found[side]["count"] == 3 and found["warm_up_calls"][side] >= 3
            low, high = found[side]["quartiles"]
            assert 0 < low <= found[side]["median"] <= high and found["images_per_s"][side] > 0
        if name != "data":
            assert found["ratio"] == found["diffusers"]["median"] / found["ours"]["median"]
        assert name in printed
    assert result["setting"]["difference_of_outputs"]["fp32"] <= result["setting"]["tolerance"]["fp32"]
    # Each side rounds differently, so that a pixel between two levels may take either.
    assert result["comparisons"]["sampling"]["images"]["largest_difference"] <= 1
    assert result["machine"]["processor"] and result["machine"]["versions"]["torch"] == torch.__version__


def test_networks_of_a_run_are_compared_and_others_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from ddpm.cli.train import main as train

    monkeypatch.chdir(tmp_path)
    tiny = ["--model.channels", "8", "--model.head_channels", "8", "--train.steps", "1", "--train.warmup_steps", "1"]
    tiny += ["--train.batch_size", "4", "--sample.per_class", "1", "--sample.steps", "1", "--tracking.wandb", "off"]
    train([*tiny, "--run-dir", "run", "--model.norm_groups", "2", "--diffusion.learned_variance", "true"])
    main(["--run-dir", "run", "--rounds", "3", "--sampling-steps", "2", "--only", "sampling", "--out", "out"])
    result = json.loads(Path("out/benchmark.json").read_text())
    assert result["setting"]["name"] == "run" and result["setting"]["images"] == "digits"
    assert result["setting"]["batch_size"] == 4
    train([*tiny, "--run-dir", "other"])            # the wider layers have more groups
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["--run-dir", "other", "--only", "forward"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1 and "model.norm_groups" in error


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--run-dir", "nowhere"], ["--run-dir", "nowhere"]),
        (["--preset", "cifar", "--run-dir", "runs/digits"], ["--preset", "--run-dir"]),
        (["--preset", "cifar10"], ["--preset", "cifar", "adm64"]),
        (["--only", "training,speed"], ["--only", "speed", "sampling"]),
        (["--rounds", "2"], ["--rounds", "3 or more"]),
        (["--mixed-precision", "fp8"], ["--mixed-precision", "bf16"]),
        (["--budget", "0"], ["--budget", "1 or more"]),
        (["--out", "file"], ["--out", "file", "folder"]),
        (["--source", "nowhere.parquet"], ["nowhere.parquet"]),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        main(words)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1 and not [part for part in parts if part not in error], error


def test_nothing_is_begun_after_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ddpm.lab.benchmark.benchmark.time.monotonic", iter(range(0, 1000, 10)).__next__)
    main(["--budget", "5", "--only", "training,data", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert not result["comparisons"] and [*result["left_out"]] == ["training", "data"]
    assert "left out: training" in (tmp_path / "benchmark.txt").read_text()


def test_a_part_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setitem(COMPARISONS, "training", COMPARISONS["training"]._replace(compare=fail))
    with pytest.raises(SystemExit) as exit_:
        main(["--only", "training,data", "--rounds", "3", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert exit_.value.code == 1 and result["failed"] == {"training": "RuntimeError: no memory left"}
    assert [*result["comparisons"]] == ["data"]


def test_other_weights_are_not_compared() -> None:
    bench = set_up_bench(choose_setting(BenchmarkCommand(batch_size=2)), 3, 2)
    inputs = draw_inputs(bench.data, bench.setting.config, bench.device)
    assert check_equal_outputs(bench.unet, bench.theirs, inputs, 1e-4) < 1e-4
    for name, parameter in bench.theirs.named_parameters():
        if name.endswith("to_k.bias"):      # softmax does not depend on it
            continue
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.5)
        with pytest.raises(RuntimeError):
            check_equal_outputs(bench.unet, bench.theirs, inputs, 1e-4)
        with torch.no_grad():
            parameter.copy_(before)
    theirs = copy_to_diffusers(bench.unet)
    with torch.no_grad():
        theirs.conv_out.bias[0] = float("nan")
    with pytest.raises(RuntimeError):
        check_equal_outputs(bench.unet, theirs, inputs, 1e-4)


def test_presets_are_those_that_their_names_say() -> None:
    for name, millions in (("digits", 0.83), ("cifar", 11.07)):
        setting = choose_setting(BenchmarkCommand(preset=name))
        bench = setting.build_network(setting.load_images(), torch.device("cpu"))
        assert sum(p.numel() for p in bench.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
    assert all(option not in OBJECTIVE for options in BENCHMARK_PRESETS.values() for option in options)


def test_the_most_important_parts_come_first() -> None:
    assert plan_parts(BenchmarkCommand(compile=True, only=["data", "forward", "training"]), "cpu") == [
        ("training", False), ("training", True), ("forward", False), ("data", False), ("forward", True)
    ]
    assert [name for name, _ in plan_parts(BenchmarkCommand(), "cpu")] == [*COMPARISONS]


def test_what_is_not_possible_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch for CUDA without a GPU cannot pretend to have one, and the rest is measured."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    main(["--only", "launches,data", "--rounds", "3", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert {*found["comparisons"]} == {"data"} and {*found["left_out"]} == {"launches"} and not found["failed"]
