"""Files of another kind than the option takes: one line with the file, and what to do with it."""

import json
from pathlib import Path

import pytest

from ddpm.config.sections import Config
from ddpm.config.study_files import read_study
from ddpm.config.yaml_files import read_config, read_flags, read_options

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_no_configuration(path: Path) -> None:
    with pytest.raises(ValueError, match=f"ablate.py --study {path}"):
        read_options(path)
    with pytest.raises(ValueError, match=f"ablate.py --study {path}"):
        read_options(path, "model")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_no_study(path: Path) -> None:
    read_options(path)
    with pytest.raises(ValueError, match=f"train.py --config {path}.*base of a study"):
        read_study(path)


def write(folder: Path, name: str, content: object) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return file


# A file, its content, and texts that the message has to contain; DIR stands for its folder.
OTHERS: dict[str, tuple[str, object, list[str]]] = {
    "model index": ("model_index.json", {"_class_name": "P"}, ["--model.pretrained DIR"]),
    "network": ("config.json", {"_class_name": "UNet2DModel", "sample_size": 32}, ["--model.pretrained DIR"]),
    "run": ("run.json", {"id": "a", "versions": {}, "data": {}}, ["config.yaml"]),
    "accelerate": ("a.yaml", "compute_environment: LOCAL_MACHINE\n", ["accelerate launch --config_file DIR/a.yaml"]),
    "nothing": ("a.yaml", "", ["empty", "train: {steps: 100}"]),
    "comments": ("a.yaml", "# train:\n", ["empty"]),
    "binary": ("a.yaml", bytes(range(256)), ["not a text file"]),
    "no spaces": ("a.yaml", "steps:100\n", ["'steps:100'", "space after the colon"]),
    "no space in a section": ("a.yaml", "train:\n  steps:100\n", ["train", "space after the colon"]),
    "empty section": ("a.yaml", "train:\nmodel: {norm: adagn}\n", ["train", "empty", "steps"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files(kind: str, tmp_path: Path) -> None:
    name, content, named = OTHERS[kind]
    file = write(tmp_path, name, content)
    for read in (read_options, read_config):
        with pytest.raises(ValueError) as refused:
            read(file)
        message = str(refused.value)
        assert message.startswith(str(file)) and "\n" not in message
        assert [text for text in named if text.replace("DIR", str(tmp_path)) not in message] == []


def test_json_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, "a.json", {"model": {"norm": "adain", "channel_mult": [1, 2.5]}, "train.steps": 3})
    expected = {"model.norm": "adain", "model.channel_mult": [1, 2.5], "train.steps": 3}
    assert read_config(file) == Config().with_options(expected)


def test_directories_and_missing_files(tmp_path: Path) -> None:
    write(tmp_path, "run/config.yaml", "train: {steps: 3}\n")
    write(tmp_path, "run/run.json", "{}")
    write(tmp_path, "pipeline/model_index.json", "{}")
    write(tmp_path, "study/study.yaml", "question: x\n")
    for given, named in (
        ("run", [f"{tmp_path}/run/config.yaml", f"--run-dir {tmp_path}/run"]),
        ("pipeline", [f"--model.pretrained {tmp_path}/pipeline"]),
        ("study", [f"{tmp_path}/study/study.yaml"]),
        (".", ["directory", "YAML file"]),
        ("run/confg.yaml", ["exist", f"did you mean {tmp_path}/run/config.yaml?"]),
        ("nowhere/at/all.yaml", ["exist", "YAML file"]),
    ):
        for read in (read_options, read_study, read_flags):
            with pytest.raises(ValueError) as refused:
                read(tmp_path / given)
            message = str(refused.value)
            assert "\n" not in message and [text for text in named if text not in message] == []


def test_files_of_sections(tmp_path: Path) -> None:
    plain = write(tmp_path, "model.yaml", "norm: adain\nchannels: 8\n")
    assert read_options(plain, "model") == {"model.norm": "adain", "model.channels": "8"}
    for content, section, named in (
        ("model:\n  norm: adain\n", "model", ["--config", "remove", "model"]),
        ("model.norm: adain\n", "model", ["--config"]),
        ("train:\n  steps: 3\ndata: {}\n", "model", ["--config"]),
        ("norm: adain\n", "train", ["norm is an option of model", "--model"]),
        ("steps: 3\n", "model", ["steps", "train", "--train"]),
    ):
        file = write(tmp_path, "a.yaml", content)
        with pytest.raises(ValueError) as refused:
            read_options(file, section)
        message = str(refused.value)
        assert message.startswith(f"{file}: ") and [text for text in named if text not in message] == []


@pytest.mark.parametrize(("old", "new"), [
    ("data: {flip: true}", "data.horizontal_flip"),
    ("model: {conditioned_depths: all}", "model.condition_at"),
    ("diffusion: {label_dropout: 0.1}", "diffusion.class_dropout_prob"),
    ("train: {accumulation: 2}", "train.gradient_accumulation_steps"),
    ("train: {clip_norm: 1}", "train.max_grad_norm"),
    ("train: {decay: constant}", "train.lr_schedule"),
    ("train: {precision: bf16}", "train.mixed_precision"),
    ("sample: {guidance: 2}", "sample.guidance_scale"),
    ("sample: {spacing: karras}", "sample.timestep_spacing"),
])
def test_options_of_earlier_versions_have_their_new_names(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"did you mean {new}"):
        read_config(write(tmp_path, "config.yaml", old))
