import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

from ddpm.config.sections import Config, ModelConfig, TrainConfig
from ddpm.lab.ablation import timing
from ddpm.lab.ablation.timing import read_timing, time_steps, write_timing
from ddpm.training.build import build_data
from ddpm.training.trainer import Trainer

SMALL = ModelConfig(channels=8, channel_mult=[1], attention_resolutions=[], head_channels=8)


@pytest.mark.usefixtures("one_thread")
def test_arms_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    step = Trainer.train_step

    def counted(self: Trainer, batches: object) -> bool:
        calls.append((self.config.model.norm, self.config.train.batch_size))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", counted)
    train = TrainConfig(steps=1, batch_size=4, learning_rate=1e-3)      # fewer steps than are timed
    models = {norm: dataclasses.replace(SMALL, norm=norm) for norm in ("adagn", "groupnorm")}
    configs = {norm: Config(model=model, train=train) for norm, model in models.items()}
    configs["half"] = dataclasses.replace(configs["adagn"], train=dataclasses.replace(train, mixed_precision="bf16"))
    seconds = time_steps(configs, build_data(Config()), rounds=2, warm_up=1)
    assert list(seconds) == ["adagn", "groupnorm", "half"]
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    order = [norm for norm, _ in calls]
    assert order == ["adagn", "groupnorm", "adagn"] * 3     # there, back and there; both ends are adagn
    assert Counter(calls) == {("adagn", 4): 6, ("groupnorm", 4): 3}


@pytest.mark.usefixtures("one_thread")
def test_an_arm_that_diverges_is_timed_like_another() -> None:
    config = Config(model=SMALL, train=TrainConfig(steps=3, batch_size=4, learning_rate=1e20, warmup_steps=0))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_skipped=1))
    assert len(time_steps({"wild": config}, build_data(Config()), rounds=6, warm_up=0)["wild"]) == 6


def test_timing_is_written_and_read(tmp_path: Path) -> None:
    assert read_timing(tmp_path) is None
    write_timing(tmp_path, {"a": [3.0, 1.0, 2.0], "b": [4.0]}, torch.device("cpu"), 2)
    found = read_timing(tmp_path)
    assert found["seconds"] == {"a": [3.0, 1.0, 2.0], "b": [4.0]}
    assert found["median_seconds"] == {"a": 2.0, "b": 4.0}
    assert found["machine"] == timing.describe_machine(torch.device("cpu")) and found["processes"] == 2
