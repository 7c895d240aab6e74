"""The files that docs/design.md lists for reading are all that one training step and one sampling step execute.

The functions that it lists for data are called in this order.
"""

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
from PIL import Image

from ddpm.data import load_data
from ddpm.diffusion.samplers import SAMPLERS, ddim
from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm"
LONGEST = {"training": 13, "sampling": 8}
# The default command on the digits, but with a small model and two steps.
TRAIN = ["--train.steps", "2", "--train.batch_size", "8", "--model.channels", "8", "--model.head_channels", "8"]
TRAIN += ["--sample.steps", "1", "--sample.per_class", "1", "--tracking.wandb", "off"]


def reading_list(subject: str) -> str:
    """Return the numbered list after the line "To understand SUBJECT, ..." in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text()
    section = re.search(rf"^To understand {subject}, .*:\n\n((?:\d+\. .*\n|   .*\n)+)", text, re.MULTILINE)
    assert section is not None, subject
    return section[1]


def entries(listed: str) -> list[str]:
    """Return what each number of a list begins with: a path or the name of a function."""
    return re.findall(r"^\d+\. `(\S+)`", listed, re.MULTILINE)


class Trace:
    """The files of the package that run inside one function, and the calls that lead from one function to another.

    Args:
        inside: the function whose files are collected, as (path, qualified name).
        begin: the function from which calls are counted, likewise.
        end: the function to which they are counted.
        outside: a function whose files are not collected.
    """

    def __init__(
        self,
        inside: tuple[str, str],
        begin: tuple[str, str] | None = None,
        end: tuple[str, str] | None = None,
        outside: tuple[str, str] | None = None,
    ) -> None:
        self.inside, self.begin, self.end, self.outside = inside, begin, end, outside
        self.files: set[str] = set()
        self.calls: list[list[str]] = []        # per call of `end`, the functions of the package after `begin`
        self.depth = self.depth_outside = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        function = identity(frame.f_code)
        if event == "return":
            self.depth -= function == self.inside
            self.depth_outside -= function == self.outside
            return
        self.depth += function == self.inside
        self.depth_outside += function == self.outside
        if self.depth > 0 and self.depth_outside == 0:
            self.files.add(function[0])
        if function == self.end:
            path = [identity(f.f_code) for f in stack(frame) if f.f_code.co_filename.startswith(str(PACKAGE))]
            self.calls.append([name for _, name in path[: path.index(self.begin)]])

    @contextmanager
    def recording(self) -> Iterator[None]:
        previous = sys.getprofile()
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(previous)


def identity(code: CodeType) -> tuple[str, str]:
    return str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and its callers, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    from ddpm.cli.train import main

    trace = Trace(
        inside=("ddpm/training/trainer.py", "Trainer.train_step"),
        begin=("ddpm/cli/train.py", "main"),
        end=("ddpm/diffusion/objective.py", "DiffusionLoss.forward"),
        outside=("ddpm/training/batches.py", "load_micro_batches"),
    )
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch, trace.recording():
        patch.setattr(sys, "argv", ["train.py", "--run-dir", str(run), *TRAIN])
        main()
    return trace


@pytest.fixture(scope="module")
def sampling() -> Trace:
    """Trace what the sampler executes while the pipeline draws one batch with guidance."""
    assert SAMPLERS["ddim"].run is ddim
    unet = UNet(resolution=8, in_channels=1, out_channels=1, num_classes=3, channels=8, channel_mult=(1, 2),
                num_res_blocks=1, attention_resolutions=(4,), head_channels=8).eval()
    pipeline = ClassConditionalPipeline.from_parts(unet, NoiseSchedule(SCHEDULES["cosine"](100)), "v", ["a", "b", "c"])
    pipeline.set_progress_bar_config(disable=True)
    trace = Trace(inside=("ddpm/diffusion/samplers.py", "ddim"))
    with trace.recording():
        pipeline(["a", "b"], num_inference_steps=2, guidance_scale=2.0, sampler="ddim")
    return trace


@pytest.mark.parametrize("subject", LONGEST)
def test_a_step_executes_the_listed_files_and_no_others(subject: str, request: pytest.FixtureRequest) -> None:
    listed = entries(reading_list(subject))
    assert 1 < len(listed) == len({*listed}) <= LONGEST[subject]
    assert not [file for file in listed if not (ROOT / file).is_file()]
    assert {*listed} == request.getfixturevalue(subject).files


def test_four_calls_lead_from_the_command_to_the_loss(training: Trace) -> None:
    assert training.calls and all(len(path) <= 4 for path in training.calls), training.calls


def test_images_are_read_in_the_listed_order(tmp_path: Path) -> None:
    """The functions of the list run in this order, and every name in it is one of `ddpm.data`."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    called: list[str] = []

    def record(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE / "data")):
            called.append(frame.f_code.co_name)

    previous = sys.getprofile()
    sys.setprofile(record)
    try:
        load_data(str(tmp_path))
    finally:
        sys.setprofile(previous)
    listed = reading_list("data")
    functions = entries(listed)
    assert len(functions) > 5 and not {*functions} - {*called}
    assert functions == sorted(functions, key=called.index)
    trees = [ast.parse(path.read_text()) for path in (PACKAGE / "data").rglob("*.py")]
    defined = {node.name for tree in trees for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    named = re.findall(r"`([A-Za-z_]+)`", listed)
    assert len(named) > len(functions) and not {*named} - defined
