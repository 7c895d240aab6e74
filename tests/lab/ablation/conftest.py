"""Run directories like those of training and evaluation, written without running either."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.config.commands import EvaluateCommand
from ddpm.config.sections import Config, ModelConfig, SampleConfig, TrackingConfig, TrainConfig
from ddpm.config.study import Arm, Study
from ddpm.config.yaml_files import read_config
from ddpm.lab.ablation import planned_runs
from ddpm.lab.comparison import runs


def config_of(**train: Any) -> Config:
    """Return a configuration of four steps, in which nothing is derived from data."""
    model = ModelConfig(channels=32, channel_mult=[1, 2], attention_resolutions=[4])
    training = TrainConfig(**{"steps": 4, "batch_size": 64, "learning_rate": 3e-3, **train})
    return Config(model=model, train=training, tracking=TrackingConfig(wandb="off"))


def study_of(**changes: Any) -> Study:
    """Return a study of three arms and three seeds with accuracy as its deciding metric."""
    arms = (
        Arm("plain", {"train.weight_decay": 0.0}, config_of()),
        Arm("again", {}, config_of(), seed_shift=100),
        Arm("decayed", {"train.weight_decay": 0.5}, config_of(weight_decay=0.5)),
    )
    settings: dict[str, Any] = {"arms": arms, "seeds": (0, 1, 2), "metric": "accuracy", "base": config_of()}
    settings["evaluation"] = {"count": 50, "bootstrap": 20}
    return Study(**{"question": "Is there anything?", **settings, **changes})


def write_training(config: Config, path: Path) -> None:
    """Write a complete run whose weights are a function of its configuration."""
    weights = hashlib.sha256(config.to_yaml().encode()).hexdigest()
    checkpoint = path / "checkpoints" / f"step_{config.train.steps:08d}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "MANIFEST.json").write_text(json.dumps({"unet/diffusion_pytorch_model.safetensors": weights}))
    (path / "pipeline").mkdir(exist_ok=True)
    (path / "config.yaml").write_text(config.to_yaml())
    facts = {"id": "0" * 8, "data": {"summary": "images", "fingerprint": "d" * 8}}
    facts |= {"parameters": 10, "multiply_adds": 20}
    (path / "run.json").write_text(json.dumps({**facts, "git_commit": "c0ffee", "versions": {"torch": "2"}}))
    (path / "metrics.jsonl").write_text('{"step": 4, "samples": 256, "loss": 0.5}\n')


def write_evaluation(
    command: EvaluateCommand, settings: SampleConfig, metrics: dict[str, float], classifier: str = "j" * 64
) -> Path:
    """Write evaluation.json of a run of `write_training`, and return its path."""
    path = Path(command.model)
    weights = json.loads(next(path.glob("checkpoints/*/MANIFEST.json")).read_text()).popitem()[1]
    drawing = {**settings.sampling_options(), "seed": settings.seed}
    folder = command.out
    folder.mkdir(parents=True, exist_ok=True)
    better = {"accuracy": "higher"}
    content = {
        "model": {"weights": weights},
        "samples": {"count": command.count, "settings": drawing, "folder": None},
        "reference": {"fingerprint": "d" * 8, "summary": "images"},
        "held_out": None,
        "extractor": {"name": "classifier", "digest": classifier, "features": 8},
        "classifier": {"digest": classifier, "value": 0.9, "low": 0.8, "high": 0.95, "held_out": 10},
        "likelihood_images": None,
        "metrics": {
            name: {
                "value": value,
                "low": value - 0.0196,
                "high": value + 0.0196,
                "count": command.count,
                "better": better.get(name, "lower"),
                "real_baseline": None,
            }
            for name, value in metrics.items()
        },
        "skipped": {},
    }
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder / "evaluation.json"


_known: dict[str, Config] = {}


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Config]:
    """Let `read_config`, which is slow, read each of the many equal files here only once."""

    def read(file: Path) -> Config:
        text = file.read_text()
        if text not in _known:
            _known[text] = read_config(file)
        return _known[text]

    for module in (runs, planned_runs):
        monkeypatch.setattr(module, "read_config", read)
    return read


@pytest.fixture
def study() -> Callable[..., Study]:
    """Return `study_of`."""
    return study_of


@pytest.fixture
def made() -> tuple[Callable[..., None], Callable[..., Path]]:
    """Return `write_training` and `write_evaluation`."""
    return write_training, write_evaluation
