"""Which directory of a run is loaded."""

from pathlib import Path

import pytest

from ddpm.atomic import write_directory_atomically
from ddpm.io.pipelines import locate
from ddpm.lab.comparison.runs import read_runs
from ddpm.training.checkpoint import find_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three checkpoints and an exported pipeline, with an index and nothing else."""
    def fill(folder: Path) -> None:
        (folder / "model_index.json").write_text("{}")

    for name in ("checkpoints/step_1", "checkpoints/step_2", "checkpoints/step_3", "pipeline"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_directory_atomically(tmp_path / name, fill)
    return tmp_path


def damage(run: Path, *steps: int) -> None:
    for step in steps:
        (run / "checkpoints" / f"step_{step}" / "model_index.json").write_text("{ }")


def test_the_newest_checkpoint_is_used_silently(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert locate(run) == run / "checkpoints" / "step_3"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("damaged", "used"), [((2, 3), "checkpoints/step_1"), ((1, 2, 3), "pipeline")])
def test_a_warning_says_what_is_used_instead(
    damaged: tuple[int, ...], used: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run, *damaged)
    assert locate(run) == run / used
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(damaged)
    for step, line in zip(sorted(damaged, reverse=True), lines, strict=True):
        assert f"step_{step}" in line and line.endswith(str(run / used))


def test_no_replacement_is_promised_if_there_is_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run, 1, 2, 3)
    (run / "pipeline").rename(run / "elsewhere")
    with pytest.raises(ValueError, match=str(run)):
        locate(run)
    warnings = capsys.readouterr().err
    assert warnings.count("damaged") == 3 and "using" not in warnings


@pytest.mark.parametrize(("file", "used"), [("training/model.safetensors", 3), ("unet/model.safetensors", 2)])
def test_what_is_not_loaded_is_not_examined(file: str, used: int, tmp_path: Path) -> None:
    """The state of training may be damaged where only the averaged model is loaded, and the model may not."""
    def fill(folder: Path) -> None:
        for name in ("model_index.json", "unet/model.safetensors", "training/model.safetensors"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("{}")

    checkpoints = [tmp_path / "checkpoints" / f"step_{step}" for step in (2, 3)]
    for checkpoint in checkpoints:
        write_directory_atomically(checkpoint, fill)
    (checkpoints[1] / file).write_text("{ }")
    assert locate(tmp_path) == tmp_path / "checkpoints" / f"step_{used}"
    assert find_checkpoint(tmp_path / "checkpoints") == checkpoints[0]      # which a run that continues loads


def test_a_run_without_checkpoints_is_its_pipeline(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints").rename(run / "elsewhere")
    assert locate(run) == run / "pipeline"
    assert str(run / "pipeline") in capsys.readouterr().err


def test_a_path_that_is_no_model_leads_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "begun"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        for file in ("config.yaml", "run.json"):
            (tmp_path / "runs" / name / file).touch()
    meant = {
        "runs/mne": "did you mean runs/mine?", "run/mine": "did you mean runs/mine?", "mine": "did you mean runs/mine?",
        "runs/mine/config.yaml": "did you mean the run runs/mine?",
        "runs/mine/checkpoints": "did you mean the run runs/mine?",
        "runs": "there are the runs runs/begun, runs/mine", "runs/x": "there are the runs runs/begun, runs/mine",
        "runs/begun": "no checkpoint yet",
    }
    for path, words in meant.items():
        with refused(f"{path}: ", words):
            locate(Path(path))
    for path in ("runs/mne", "runs", "runs/mine/config.yaml"):
        with refused(f"{path}: ", meant[path]):
            read_runs([Path(path)])
