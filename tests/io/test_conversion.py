"""scripts/convert.py for files of weights: the result can be sampled and fine-tuned, mistakes are one line."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_models import (
    FLAGS,
    TRAIN,
    Run,
    converted,
    inputs,
    ours,
    refused,
    write_reference,
)

from ddpm.atomic import find_damage
from ddpm.diffusion.schedule import SCHEDULES
from ddpm.io.adm import from_adm
from ddpm.io.pipelines import load_pipeline

pytestmark = pytest.mark.usefixtures("workplace")


# ------------------------------------------------------------------------------------------------ the reference's files


def test_a_file_of_weights_becomes_a_pipeline_that_draws_and_trains_on(run: Run) -> None:
    flags = write_reference(Path("model.pt"))
    Path("flags.yaml").write_text(json.dumps(FLAGS))
    Path("names.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    printed = converted(
        run, "model.pt", "--flags", "flags.yaml", "--class-names", "names.txt", "--out", "models/of it"
    )
    assert find_damage(Path("models/of it")) is None
    pipeline = load_pipeline(Path("models/of it"))
    assert pipeline.prediction == "eps" and pipeline.class_names == [f"digit {i}" for i in range(10)]
    assert torch.equal(pipeline.schedule.betas, SCHEDULES["linear"](1000))
    x, t, y = inputs(pipeline.unet)
    expected = from_adm(
        torch.load("model.pt"), **flags.architecture(), in_channels=1, out_channels=2, num_classes=10
    )
    with torch.no_grad():
        assert torch.equal(pipeline.unet(x, t, y).sample, expected(x, t, y).sample)

    draw, train = (line.partition(": python scripts/")[2] for line in printed.splitlines()[1:])
    script, *args = shlex.split(draw)
    code, _, complaint = run(script.removesuffix(".py"), *args, "--steps", 2, "--per-class", 1, "--out", "drawn")
    assert code == 0 and len([*Path("drawn").rglob("*seed*.png")]) == 10, complaint
    script, *args = shlex.split(train.replace("FOLDER", "digits"))
    code, trained, complaint = run(script.removesuffix(".py"), *args, *TRAIN, "--run-dir", "tuned")
    assert code == 0, complaint
    assert "architecture and weights of models/of it" in trained
    tuned = load_pipeline(Path("tuned")).unet
    assert tuned.config.channels == 32 and tuned.config.out_channels == 2 and tuned.null_label == 10
    start = expected.state_dict()
    start.pop("class_embed.weight")
    moved = max(float((tuned.state_dict()[name] - p).abs().max()) for name, p in start.items())
    assert 0 < moved < 1e-3         # two steps of at most 1e-4


def test_an_unconditional_model_draws(run: Run) -> None:
    write_reference(Path("model.pt"), class_cond=False, learn_sigma=False)
    Path("flags.json").write_text(json.dumps({**FLAGS, "class_cond": False, "learn_sigma": False}))
    converted(run, "model.pt", "--flags", "flags.json", "--out", "model")
    assert load_pipeline(Path("model")).class_names == []
    code, _, complaint = run("sample", "model", "--steps", 2, "--per-class", 3, "--out", "drawn")
    assert code == 0 and len([*Path("drawn").rglob("*seed*.png")]) == 3, complaint


def test_mistakes_with_files_of_weights(run: Run) -> None:
    write_reference(Path("model.pt"))
    Path("few.txt").write_text("a\nb\n")
    Path("twice.txt").write_text("a\nb\na\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    Path("good.yaml").write_text(json.dumps(FLAGS))
    Path("wrong.yaml").write_text("num_chanels: 3\n")
    Path("wide.yaml").write_text(json.dumps({**FLAGS, "num_channels": 64}))
    Path("broken.yaml").write_text("a: [1\n")
    Path("list.yaml").write_text("- 1\n")
    Path("text.pt").write_text("hello")
    good = ("model.pt", "--flags", "good.yaml")
    for args, expected in {
        ("none.pt",): r"^none\.pt: ",
        ("text.pt", "--preset", "imagenet64"): r"^text\.pt: .*download it again",
        ("model.pt",): r"^preset: .*model\.pt.*--flags FILE; matching presets: none$",
        ("model.pt", "--preset", "imagenet46"): r"^preset: 'imagenet46' is not one of .*did you mean imagenet64\?$",
        ("model.pt", "--preset", "imagenet64"): r"^model\.pt: .*matching presets: none",
        ("model.pt", "--flags", "none.yaml"): r"^flags: none\.yaml does not exist",
        ("model.pt", "--flags", "wrong.yaml"): r"^flags: num_chanels .*did you mean num_channels\?",
        ("model.pt", "--flags", "wide.yaml"): r"^model\.pt: .*time_embed\.0\.weight.* 128 x 32.* 256 x 64",
        ("model.pt", "--flags", "broken.yaml"): r"^flags: broken\.yaml: .*line 1",
        ("model.pt", "--flags", "list.yaml"): r"^flags: list\.yaml: ",
        ("model.pt", "--to", "diffusers"): r"^model\.pt: ",
        (*good, "--preset", "imagenet64"): r"^preset: .*either --preset or --flags",
        (*good, "--class-names", "few.txt"): r"^class-names: few\.txt .*2 names.* 10 classes$",
        (*good, "--class-names", "twice.txt"): r"^class-names: twice\.txt.*'a'.*different name$",
        (*good, "--class-names", "binary.txt"): r"^class-names: binary\.txt .*text file$",
        (*good, "--null-class"): r"^null-class: .*omit --null-class$",
        (*good, "--schedule", "linear"): r"^schedule: .*omit --schedule$",
        (*good, "--to", "difusers"): r"^to: 'difusers' .*did you mean diffusers\?",
    }.items():
        line = refused(run, *args, "--out", "out")
        assert re.search(expected, line), line
        assert not Path("out").exists() and not Path(".out.tmp").exists()


# --------------------------------------------------------------------------------------------------- where it may write


def test_only_earlier_conversions_are_replaced(run: Run) -> None:
    write_reference(Path("model.pt"))
    Path("flags.yaml").write_text(json.dumps(FLAGS))
    convert = ("model.pt", "--flags", "flags.yaml", "--out")
    Path("empty").mkdir()
    converted(run, *convert, "empty")
    first = load_file("empty/unet/diffusion_pytorch_model.safetensors")
    write_reference(Path("model.pt"), learn_sigma=False)
    Path("flags.yaml").write_text(json.dumps({**FLAGS, "learn_sigma": False}))
    converted(run, *convert, "empty")
    second = load_file("empty/unet/diffusion_pytorch_model.safetensors")
    assert len(first["conv_out.bias"]) == 2 and len(second["conv_out.bias"]) == 1

    Path("empty/notes.txt").write_text("mine")
    assert re.search("^out: empty .*another directory", refused(run, *convert, "empty"))
    assert Path("empty/notes.txt").read_text() == "mine" and find_damage(Path("empty")) is None
    Path("empty/notes.txt").unlink()
    Path("empty/class_names.txt").write_text("")
    assert re.search("^out: empty .*another directory", refused(run, *convert, "empty"))
    assert re.search("^out: flags.yaml .*choose a directory", refused(run, *convert, "flags.yaml"))
    assert re.search("^out: [.] .*another directory", refused(run, *convert, "."))
    Path("other").mkdir()
    Path("other/file").touch()
    assert re.search("^out: other .*another directory", refused(run, *convert, "other"))
    line = refused(run, ours(Path("pipeline")), "--to", "diffusers", "--out", "pipeline")
    assert re.search("^out: pipeline .*another directory", line)
