"""Training with `train.compile`: the same function, the same names of weights, and the same files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from ddpm.config.sections import Config, DiffusionConfig, ModelConfig, SampleConfig, TrackingConfig, TrainConfig
from ddpm.data import load_data
from ddpm.models import compilation
from ddpm.training import trainer as trainer_module
from ddpm.training.build import build_schedule, build_unet
from ddpm.training.derived_options import derive_config
from ddpm.training.train import train
from ddpm.training.trainer import Trainer

SMALL = Config(
    model=ModelConfig(channels=8, head_channels=8),
    train=TrainConfig(steps=4, batch_size=8, warmup_steps=1, log_every=2, sample_every=0, compile=True),
    sample=SampleConfig(steps=2, per_class=1),
    tracking=TrackingConfig(wandb="off"),
)


@pytest.fixture
def compiled_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], CompileCounterWithBackend]:
    """Return a function that replaces the compiler's backend by another one that is counted."""
    torch.compiler.reset()
    counters.clear()

    def replace_backend(name: str) -> CompileCounterWithBackend:
        backend = CompileCounterWithBackend(name)

        def compile_with(network: torch.nn.Module, *, cuda_graphs: bool = False) -> None:
            compilation.compile_network(network, backend=backend)

        monkeypatch.setattr(trainer_module, "compile_network", compile_with)
        return backend

    return replace_backend


def losses_of(config: Config, steps: int = 3) -> list[float]:
    """Return the loss after each step, summed over the steps so far."""
    AcceleratorState._reset_state(True)
    data = load_data("digits")
    config = derive_config(config, data)
    precision = {"fp32": "no"}.get(config.train.mixed_precision, config.train.mixed_precision)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    trainer = Trainer(config, accelerator, data, build_schedule(config), build_unet(config, data), Path())
    inputs, losses = trainer.load_inputs(), []
    for _ in range(steps):
        trainer.train_step(inputs)
        losses.append(trainer.sums["loss"])
    return losses


LEARNED_VARIANCE = {"diffusion.learned_variance": True, "diffusion.prediction": "eps"}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("options", "precision"),
    [
        pytest.param({"train.gradient_accumulation_steps": 2}, "bf16", id="accumulation"),
        pytest.param({}, "fp32", id="default", marks=pytest.mark.slow),
        pytest.param(
            {**LEARNED_VARIANCE, "model.gradient_checkpointing": True}, "bf16", id="variance", marks=pytest.mark.slow
        ),
        pytest.param(
            {"data.augment": 0.5, "diffusion.weighting": "min_snr"}, "fp32", id="augmentation", marks=pytest.mark.slow
        ),
    ],
)
def test_the_loss_is_one_graph_that_is_compiled_once(
    compiled_by: Callable, options: dict, precision: str
) -> None:
    config = SMALL.with_options({**options, "train.mixed_precision": precision})
    expected = losses_of(config.with_options({"train.compile": False}))
    backend = compiled_by("aot_eager")
    found = losses_of(config)
    assert backend.frame_count == 1 and not counters["graph_break"]
    # The backend decomposes operations, so sums are rounded in another order, in the precision of the network.
    assert found == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.usefixtures("one_thread")
def test_a_compiled_run_has_the_files_of_another(
    tmp_path: Path, compiled_by: Callable, refused: Callable, capsys: pytest.CaptureFixture
) -> None:
    compiled_by("eager")
    plain = replace(SMALL, train=replace(SMALL.train, compile=False))
    train(SMALL, tmp_path / "compiled")
    train(plain, tmp_path / "plain")
    folders = [tmp_path / run / "checkpoints" / "step_00000004" for run in ("compiled", "plain")]
    for file in ("training/model", "training/optimizer", "unet/diffusion_pytorch_model"):
        one, other = (load_file(folder / f"{file}.safetensors") for folder in folders)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file       # the eager backend rounds equally
    assert json.loads((tmp_path / "compiled" / "run.json").read_text())["config"]["train.compile"] is True
    with refused("train.compile"):
        train(replace(plain, train=replace(plain.train, steps=6)), tmp_path / "compiled", allowed=["train.compile"])


def test_a_missing_compiler_is_told_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    monkeypatch.setattr(compilation, "find_missing_tool", lambda device: "needs a compiler, and there is none")
    with refused("train.compile", "leave train.compile out"):
        train(SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("one_thread")
def test_the_inputs_of_the_next_step_are_prepared_before_results_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    prepare, read = trainer_module.prepare_inputs, torch.Tensor.tolist

    def prepared(position: torch.Tensor, *rest: object) -> object:
        events.append(f"prepare {int(position[0])}")
        return prepare(position, *rest)

    def tolist(tensor: torch.Tensor) -> list:
        if tensor.is_floating_point():
            events.append("read")
        return read(tensor)

    monkeypatch.setattr(trainer_module, "prepare_inputs", prepared)
    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    losses_of(replace(SMALL, train=replace(SMALL.train, compile=False), diffusion=DiffusionConfig()), steps=2)
    assert events[events.index("prepare 0") :] == ["prepare 0", "prepare 8", "read", "prepare 16", "read"]
