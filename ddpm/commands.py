"""Command lines and configuration files -> dataclasses. Nothing else reads YAML or argv."""

import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import docstring_parser
import jsonargparse
import yaml

from ddpm.config import SECTIONS, Config, SampleConfig
from ddpm.names import did_you_mean

Command = TypeVar("Command")


def read_config(path: Path) -> Config:
    """Reads a configuration file.

    Raises:
        ValueError: if it is not one.
    """
    parser = _Parser(exit_on_error=False)
    _add_sections(parser)
    try:
        return _to_config(parser.instantiate(parser.parse_path(str(path))))
    except (ValueError, jsonargparse.ArgumentError) as problem:
        raise ValueError(f"{path}: cannot be read as a configuration: {' '.join(str(problem).split())}") from problem


@dataclass(frozen=True)
class TrainCommand:
    """What scripts/train.py was asked to do."""

    config: Config
    run: Path
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How images are drawn.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline.
        seed: the j-th image of class c has the seed `seed + j * number of classes + c`.
        steps: network evaluations per image, at most.
        guidance: scale of guidance; 1 is none.
        guidance_interval: noise levels [low, high] between which there is guidance; all unless given.
        guidance_rescale: from 0 to 1, how far the contrast of guided images is set back.
        guide: a weaker model (an earlier checkpoint, a smaller run) to be guided by instead of the null class.
        sampler: ddim, ddpm (ancestral), dpmpp, unipc, euler or heun.
        eta: noise of ddim, from 0 (none) to 1.
        spacing: of the timesteps, trailing, leading, linspace, logsnr or karras.
        batch_size: images per network call.
    """

    model: Path
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_interval: list[float] | None = None
    guidance_rescale: float | None = None
    guide: Path | None = None
    sampler: str | None = None
    eta: float | None = None
    spacing: str | None = None
    batch_size: int | None = None

    def settings(self) -> SampleConfig:
        """The `sample` section of the run that the model is from, if any, with what the command line gives.

        Raises:
            ValueError: if a value is out of range.
        """
        run = run_of(self.model)
        defaults = SampleConfig() if run is None else read_config(run / "config.yaml").sample
        names = {f.name for f in dataclasses.fields(SampleConfig)}
        given = {key: value for key, value in vars(self).items() if key in names and value is not None}
        return dataclasses.replace(defaults, **given)


def run_of(path: Path) -> Path | None:
    """The run directory that a path is, or is in, such as that of a checkpoint; None if it is in none."""
    near = (path, *path.absolute().parents[:3])
    return next((f for f in near if (f / "config.yaml").is_file() and (f / "run.json").is_file()), None)


@dataclass(frozen=True, kw_only=True)
class SampleCommand(Drawing):
    """Draw images of chosen classes from a trained model; the same command again goes on where it was interrupted.

    Args:
        classes: names or ids, separated by commas; all unless given; none is the null class.
        per_class: images of each class.
        blend: so many images from each class to the next, their embeddings blended.
        walk: so many images of each class from one seed to the next.
        swap: rows in which the next class takes over level by level, from the finest resolution to the coarsest.
        format: png, parquet or npz; several separated by commas.
        out: folder to write to; one of its own in samples/ inside the model unless given.
    """

    classes: str | None = None
    per_class: int | None = None
    blend: int | None = None
    walk: int | None = None
    swap: bool = False
    format: str = "png"
    out: Path | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("blend", "walk", "swap") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: cannot be had together with {given[0]}; give one of them")
        for name in ("blend", "walk"):
            if getattr(self, name) is not None and getattr(self, name) < 2:
                raise ValueError(f"{name}: {getattr(self, name)} is out of range; allowed: 2 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(Drawing):
    """Measure how good a model's images are, or somebody else's, each figure with an error bar and a floor.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline; or images, as a folder, parquet or .npz.
        reference: real images to compare with, as data.source, or a run directory for its data; the data of the
            model's run unless given.
        reference_split: the split of a reference that is no run directory; train unless given.
        held_out: real images that the model was not trained on, as data.source.
        held_out_split: the split of them, train unless given; without held_out a split of the run's own source.
        count: number of images to draw, in the reference's proportions of classes; as many as it has unless given, but
            at most 10,000.
        extractor: of features, judge, inception, dinov2, package.module:Name, or a folder of a saved judge.
        metrics: which, separated by commas; all that apply unless given.
        bootstrap: resamples for the intervals.
        bound_images: held-out images for the denoising error and the variational bound.
        bound_steps: timesteps of the bound that are evaluated for each of them; all of them make it exact.
        out: folder to write to; one of its own in evaluations/ inside the model unless given.
    """

    reference: str | None = None
    reference_split: str | None = None
    held_out: str | None = None
    held_out_split: str | None = None
    count: int | None = None
    extractor: str = "judge"
    metrics: str | None = None
    bootstrap: int = 200
    bound_images: int = 128
    bound_steps: int = 20
    out: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("count", 2), ("bootstrap", 20), ("bound_images", 2), ("bound_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: {value} is out of range; allowed: {least} or more")


@dataclass(frozen=True)
class CompareCommand:
    """Set runs side by side: figures with intervals, curves, samples and settings, as a table and one HTML page.

    Args:
        runs: run directories; the first is what the others are compared with, and one alone gets a page of its own.
        out: the page.
    """

    runs: list[Path]
    out: Path = Path("comparison.html")


@dataclass(frozen=True)
class ConvertCommand:
    """Convert weights of OpenAI's ADM and improved-diffusion, and diffusers' UNet2DModel; or a model to that class.

    Args:
        model: a .pt file, a folder of a UNet2DModel, or a diffusers pipeline with one; or a model of this program.
        out: directory of the result.
        to: what to convert to, ddpm or diffusers.
        preset: which released model a .pt file is, imagenet64, imagenet128, imagenet256, imagenet256_uncond,
            imagenet512, lsun256, improved_imagenet64 or improved_lsun256.
        flags: YAML or JSON file of the flags that the model of a .pt file was trained with, by the reference's names.
        class_names: file of one class name per line; ids unless given.
        null_class: the last class embedding of the UNet2DModel stands for no class.
        schedule: noise schedule of a UNet2DModel that has no scheduler, linear, cosine or sigmoid.
        num_timesteps: its number of steps; 1000 unless given.
        prediction: what a UNet2DModel that has no scheduler predicts, eps, v or x_0.
    """

    model: Path
    out: Path
    to: str = "ddpm"
    preset: str | None = None
    flags: Path | None = None
    class_names: Path | None = None
    null_class: bool = False
    schedule: str | None = None
    num_timesteps: int | None = None
    prediction: str | None = None

    def reference_flags(self) -> dict[str, Any] | None:
        """What the file of flags holds; None where none was given.

        Raises:
            ValueError: if it holds something else than names and values.
        """
        if self.flags is None:
            return None
        try:
            content = yaml.safe_load(self.flags.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as problem:
            raise ValueError(f"flags: {self.flags} cannot be read: {' '.join(str(problem).split())}") from None
        if not isinstance(content, dict):
            raise ValueError(f"flags: {self.flags} holds no names and values, as image_size: 64")
        return {str(name): value for name, value in content.items()}


@dataclass(frozen=True)
class PushCommand:
    """Share a trained model on the Hugging Face hub: weights, code and a card; without a token a dry run.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline.
        to: name of the repository, owner/name; made if it does not exist.
        license: of the weights, an identifier as the hub knows them, such as apache-2.0 or cc-by-4.0.
        private: make the repository private.
        dry_run: only say what would be uploaded.
    """

    model: Path
    to: str
    license: str | None = None
    private: bool = False
    dry_run: bool = False


def parse_train(argv: list[str] | None = None) -> TrainCommand:
    """Reads the command line of scripts/train.py; prints one line and exits with code 2 on a mistake."""
    parser = _Parser(
        prog="train.py",
        usage="train.py [--config FILE] [--run DIR] [--dry-run] [--print_config] [--section.key VALUE ...]",
        description="Train a class-conditional diffusion model. Without arguments: on scikit-learn's digits.",
        print_config="--print_config",
    )
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file; what follows overrides it")
    parser.add_argument("--run", type=Path | None, help="run directory; the same command again resumes it")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would take, and stop")
    _add_sections(parser)
    args = parser.parse_args(argv)
    config = _to_config(parser.instantiate(args))
    run = args.run or Path("runs") / (re.sub(r"\W+", "-", Path(config.data.source).name) or "run")
    return TrainCommand(config, Path(run), args.dry_run)


def parse_sample(argv: list[str] | None = None) -> SampleCommand:
    """Reads the command line of scripts/sample.py; prints one line and exits with code 2 on a mistake."""
    return _parse(SampleCommand, "sample.py", argv)


def parse_evaluate(argv: list[str] | None = None) -> EvaluateCommand:
    """Reads the command line of scripts/evaluate.py; prints one line and exits with code 2 on a mistake."""
    return _parse(EvaluateCommand, "evaluate.py", argv)


def parse_compare(argv: list[str] | None = None) -> CompareCommand:
    """Reads the command line of scripts/compare.py; prints one line and exits with code 2 on a mistake."""
    return _parse(CompareCommand, "compare.py", argv)


def parse_convert(argv: list[str] | None = None) -> ConvertCommand:
    """Reads the command line of scripts/convert.py; prints one line and exits with code 2 on a mistake."""
    return _parse(ConvertCommand, "convert.py", argv)


def parse_push(argv: list[str] | None = None) -> PushCommand:
    """Reads the command line of scripts/push.py; prints one line and exits with code 2 on a mistake."""
    return _parse(PushCommand, "push.py", argv)


def _parse(command: type[Command], prog: str, argv: list[str] | None) -> Command:
    """Reads a command line into a dataclass, whose docstring is the help; `model` and `runs` have no option's name."""
    described = [docstring_parser.parse(kind.__doc__) for kind in reversed(command.__mro__[:-1])]
    parser = _Parser(prog=prog, description=described[-1].short_description)
    helps = {p.arg_name: " ".join(p.description.split()) for document in described for p in document.params}
    fields = dataclasses.fields(command)
    for f in fields:
        option = f"--{f.name.replace('_', '-')}"
        if f.name == "model":
            parser.add_argument("model", type=f.type, help=helps[f.name])
        elif f.name == "runs":
            parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=helps[f.name])
        elif f.type is bool:
            parser.add_argument(option, action="store_true", help=helps[f.name])
        elif f.default is dataclasses.MISSING:
            parser.add_argument(option, type=f.type, required=True, help=helps[f.name])
        else:
            parser.add_argument(option, type=f.type, default=f.default, help=helps[f.name])
    args = parser.parse_args(argv)
    return command(**{f.name: getattr(args, f.name) for f in fields})


def _add_sections(parser: jsonargparse.ArgumentParser) -> None:
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)


def _to_config(namespace: Any) -> Config:
    return Config(**{name: namespace[name] for name in SECTIONS})


class _Parser(jsonargparse.ArgumentParser):
    """jsonargparse, with each error in one line that names the key and the nearest option."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(allow_abbrev=False, **kw)

    def parse_args(self, args: list[str] | None = None, *rest: Any, **kw: Any) -> Any:
        # Both spellings of an option's name are understood: --dry-run and --dry_run.
        given = sys.argv[1:] if args is None else args
        known = {option for action in self._actions for option in action.option_strings}
        try:
            return super().parse_args([self._respelled(token, known) for token in given], *rest, **kw)
        except UnicodeDecodeError:
            return self.error("config: the file is not text")

    @staticmethod
    def _respelled(token: str, known: set[str]) -> str:
        name, equals, value = token.partition("=")
        for other in (name, "--" + name[2:].replace("-", "_"), "--" + name[2:].replace("_", "-")):
            if name.startswith("--") and other in known:
                return other + equals + value
        return token

    def instantiate(self, namespace: Any, **kw: Any) -> Any:
        for name in SECTIONS:
            if not isinstance(namespace[name], jsonargparse.Namespace):
                options = ", ".join(f.name for f in dataclasses.fields(SECTIONS[name]))
                return self.error(f"{name}: {namespace[name]!r} is not a section; its options are {options}")
        try:
            return super().instantiate(namespace, **kw)
        except (ValueError, TypeError) as problem:
            return self.error(str(problem))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = self._one_line(message)
        if not self.exit_on_error:
            raise ValueError(line)
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)         # every process reads the same command line; one message is enough
        fail(line)

    def _one_line(self, message: str) -> str:
        options = [o.lstrip("-") for action in self._actions for o in action.option_strings if not o.endswith("+")]
        unknown = (
            re.search(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'", message)
            or re.search(r"Option '(?P<key>[\w.]+)' is not accepted", message)
            or re.search(r"unrecognized arguments: --(?P<key>[\w.-]+)", message)
        )
        if unknown:
            group = unknown.groupdict().get("group")
            key = f"{group}.{unknown['key']}" if group else unknown["key"]
            return f"{key} is not an option{did_you_mean(key, options)}"
        wrong = re.search(r'Parser key "(?P<key>[\w.]+)":(?P<problem>.*)', message, re.DOTALL)
        if wrong:
            problem = re.sub(r"<class '(\w+)'>", r"\1", wrong["problem"])
            return f"{wrong['key']}: {' '.join(problem.split())}"
        return " ".join(message.split())


def fail(line: str) -> NoReturn:
    """Prints one line to standard error and exits with code 2."""
    rank = os.environ.get("RANK", "0")
    origin = "" if rank == "0" else f" in process {rank}"
    print(f"{Path(sys.argv[0]).name}: error{origin}: {line}", file=sys.stderr)
    raise SystemExit(2)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns an error that the user can put right into one line and exit code 2.

    Those are `ValueError`s raised by this package's own code, and files that cannot be read or written. Anything else
    is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except ValueError as problem:
        frame = problem.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is None or not frame.tb_frame.f_globals.get("__name__", "").startswith("ddpm."):
            raise
        fail(" ".join(str(problem).split()))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as problem:
        if problem.strerror is None:
            raise
        fail(f"{problem.filename or 'input/output'}: {problem.strerror}")
