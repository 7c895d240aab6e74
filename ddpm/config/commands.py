"""The options of each command, as frozen dataclasses. Docstrings are the help texts, and types declare the ranges."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ddpm.config.changes import check_allowed
from ddpm.config.sections import Config, PredictionName, SamplerOptions, ScheduleName
from ddpm.config.values import CheckedOptions, PositiveInt, Range, SeedInt, at_least


class Overrides(dict[str, Any]):
    """Some options of a configuration and their values, by names such as `data.source`."""


AtLeastTwo = Annotated[int, at_least(2)]
AtLeastTwenty = Annotated[int, at_least(20)]
MIN_PROBE_IMAGES = 20       # for usable intervals

# The options of SamplerOptions, each of which may be None for the value of the model's run.
OptionalSamplerOptions = dataclasses.make_dataclass(
    "OptionalSamplerOptions",
    [(field.name, field.type | None, None) for field in dataclasses.fields(SamplerOptions)],     # type: ignore[operator]
    bases=(CheckedOptions,), namespace={"__doc__": SamplerOptions.__doc__}, frozen=True, kw_only=True,
)


@dataclass(frozen=True)
class TrainCommand(CheckedOptions):
    """Train a diffusion model of images with or without classes. It trains on digits without options.

    Args:
        config: YAML file of options; options after it on the command line override it.
        run_dir: run directory; a run in it continues. Default: runs/ and the name of the data source. The run continues
            with its own configuration and the given options, or with that of --config, which must agree with it.
            Given alone, it must hold a run.
        allow_change: options that may change in a run that continues although they affect its result, separated by
            commas, such as train.batch_size,train.learning_rate. The change is recorded in run.json.
        dry_run: print data, size and cost of the run, and what would change, and exit.
        print_config: print the configuration in the format of --config files, and exit.
        overrides: the options of the configuration that files and the command line give.
    """

    config: Config = dataclasses.field(default_factory=Config)
    run_dir: Path | None = None
    allow_change: str | None = None
    dry_run: bool = False
    print_config: bool = False
    overrides: Overrides = dataclasses.field(default_factory=Overrides)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allow_change is not None and not self.allowed:
            raise ValueError(f"allow_change: {self.allow_change!r} names no option; give some, as train.batch_size")
        check_allowed(self.allowed, self.directory, self.overrides)

    @property
    def allowed(self) -> list[str]:
        """The options that may change, by names such as `train.batch_size`."""
        return [name.replace("-", "_") for name in re.findall(r"[^\s,\[\]]+", self.allow_change or "")]

    @property
    def continues(self) -> bool:
        """Whether there must be a run: the command says nothing about a new one, or allows changes of a run."""
        return bool(self.allowed) or (self.run_dir is not None and not self.overrides)

    @property
    def directory(self) -> Path:
        """The run directory, which has the name of the data source by default."""
        source = re.sub(r"\W+", "-", Path(self.config.data.source).name)
        return self.run_dir or Path("runs") / (source or "run")


@dataclass(frozen=True, kw_only=True)
class ModelSamplingOptions(OptionalSamplerOptions):       # type: ignore[misc, valid-type]
    """How images are drawn from a trained model.

    Args:
        model: run directory, one of its checkpoints, or a pipeline.
        guide: weaker model (an earlier checkpoint or a smaller run) to guide with, instead of the null class.
        seed: first seed; image j of class c gets the seed `seed + j * number of classes + c`, and without classes
            image j the seed `seed + j`.
        batch_size: number of images per network call.
        compile: compile the network with torch.compile. This takes a minute or more, so it is for many images.
    """

    model: Path
    guide: Path | None = None
    seed: SeedInt | None = None
    batch_size: PositiveInt | None = None
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleCommand(ModelSamplingOptions):
    """Draw images of chosen classes from a trained model. The same command resumes an interrupted one.

    Options that are not given default to the section `sample` of the run's configuration.

    Args:
        classes: class names or ids, separated by commas; `none` is the null class. Default: all classes.
        per_class: number of images of each class, or of all images of a model without classes.
        blend: number of images from each class to the next, including both ends, with blended class embeddings.
        walk: number of images of each class from one seed to the next, including both ends.
        swap: draw rows in which the next class replaces the class resolution by resolution, from the finest to the
            coarsest.
        format: png, parquet or npz, or several of these separated by commas. Images with more than four channels need
            npz.
        out: output folder. Default: a new folder in samples/ of the model.
    """

    classes: str | None = None
    per_class: PositiveInt | None = None
    blend: AtLeastTwo | None = None
    walk: AtLeastTwo | None = None
    swap: bool = False
    format: str = "png"
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("blend", "walk", "swap") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: cannot be combined with --{given[0]}; give only one of them")


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(ModelSamplingOptions):
    """Measure the quality of a model's images, or of given images, with confidence intervals and a real-data baseline.

    Sampling options that are not given default to the section `sample` of the run's configuration.

    Args:
        model: run directory, one of its checkpoints, or a pipeline; or images, as a folder, a parquet or an .npz file.
        reference: real images to compare with, as in data.source, or a run directory for its data. Default: the data
            of the model's run.
        reference_split: split of the reference, or a slice of one, such as train[:80%]; not with a run directory as the
            reference, which has a split. Default: train, or without a reference the split of the model's run.
        held_out: real images that the model was not trained on, as in data.source.
        held_out_split: split of the held-out images, or a slice of one, such as train[80%:]. Without held_out,
            it is a split of the data that the run was trained on. Default: train.
        count: number of images to draw, in the class proportions of the reference. Default: the number of reference
            images, at most 10,000.
        extractor: feature extractor: classifier, inception, dinov2, package.module:Name, or the folder of a saved
            classifier.
        metrics: metrics to compute, separated by commas. Default: all that apply.
        bootstrap: number of bootstrap replicates for the confidence intervals.
        bound_images: number of images for the denoising error and the variational bound: held-out images, or images of
            the reference if none are held out.
        bound_steps: number of timesteps at which the bound is evaluated for each image; the bound is exact with all
            timesteps of the model.
        out: output folder. Default: a new folder in evaluations/ of the model, or next to the images.
    """

    reference: str | None = None
    reference_split: str | None = None
    held_out: str | None = None
    held_out_split: str | None = None
    count: AtLeastTwo | None = None
    extractor: str = "classifier"
    metrics: str | None = None
    bootstrap: AtLeastTwenty = 200
    bound_images: AtLeastTwo = 128
    bound_steps: PositiveInt = 20
    out: Path | None = None


@dataclass(frozen=True)
class CompareCommand(CheckedOptions):
    """Compare runs: metrics with confidence intervals, curves, samples and settings, as a table and one HTML page.

    Args:
        runs: run directories; the others are compared with the first. A single run gets a page of its own.
        out: HTML file to write.
    """

    runs: list[Path]
    out: Path = Path("comparison.html")


@dataclass(frozen=True)
class ConvertCommand(CheckedOptions):
    """Convert a model of OpenAI's ADM or improved-diffusion, or diffusers' UNet2DModel; or convert to UNet2DModel.

    Args:
        model: .pt file, folder of a UNet2DModel, or diffusers pipeline with one; or a model of this program.
        out: output directory.
        to: format to convert to; ddpm is the format of this package.
        preset: released model that the .pt file belongs to.
        flags: YAML or JSON file of the flags that the model of the .pt file was trained with.
        class_names: text file with one class name per line. Default: the class ids.
        null_class: treat the last class embedding of the UNet2DModel as the null class.
        schedule: noise schedule of a UNet2DModel that comes without a scheduler.
        num_timesteps: number of timesteps of that schedule. Default: 1000.
        prediction: prediction target of a UNet2DModel that comes without a scheduler.
    """

    model: Path
    out: Path
    to: Literal["ddpm", "diffusers"] = "ddpm"
    preset: Literal[
        "imagenet64", "imagenet128", "imagenet256", "imagenet256_uncond", "imagenet512", "lsun256",
        "improved_imagenet64", "improved_lsun256",
    ] | None = None
    flags: Path | None = None
    class_names: Path | None = None
    null_class: bool = False
    schedule: ScheduleName | None = None
    num_timesteps: AtLeastTwo | None = None
    prediction: PredictionName | None = None


@dataclass(frozen=True)
class PushCommand(CheckedOptions):
    """Upload a trained model to the Hugging Face hub: weights, code and a model card. Without a token, it is a dry run.

    Args:
        model: run directory, one of its checkpoints, or a pipeline.
        to: name of the repository, as owner/name; it is created if it does not exist.
        license: license of the weights, as an identifier of the hub, such as apache-2.0 or cc-by-4.0.
        private: make the repository private.
        dry_run: print what would be uploaded, and exit.
    """

    model: Path
    to: str
    license: str | None = None
    private: bool = False
    dry_run: bool = False


def is_shard(text: str) -> bool:
    """Return whether a string is i/n with i from 1 to n."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    return match is not None and 1 <= int(match[1]) <= int(match[2])


@dataclass(frozen=True)
class AblateCommand(CheckedOptions):
    """Run a study: train and evaluate every arm with every seed, compare the arms and write a report.

    The same command resumes an interrupted study.

    Every option of scripts/train.py, such as --data.source, replaces that of the base configuration in the study file.

    Args:
        study: YAML file of the question, the base configuration, the arms, the seeds and the deciding metric.
        overrides: options that replace those of the base configuration.
        run_dir: directory of the study. Default: runs/ and the name of the file.
        shard: run only the i-th of n shards of the runs, so that several machines can share a study.
        dry_run: print the number of runs and the estimated cost of the study, and exit.
    """

    study: Path
    overrides: Overrides = dataclasses.field(default_factory=Overrides)
    run_dir: Path | None = None
    shard: Annotated[str, Range("i/n with i from 1 to n, such as 2/4", is_shard)] = "1/1"
    dry_run: bool = False

    @property
    def directory(self) -> Path:
        """The directory of the study, which has the name of its file by default."""
        return self.run_dir or Path("runs") / self.study.stem

    @property
    def shard_numbers(self) -> tuple[int, int]:
        """The shard as numbers (i, n), with i from 1 to n."""
        i, n = self.shard.split("/")
        return int(i), int(n)


@dataclass(frozen=True)
class ProbeCommand(CheckedOptions):
    """Show how the modulation of a trained model behaves, as one HTML page and a JSON file of its numbers.

    Args:
        model: run directory, one of its checkpoints, or a pipeline.
        out: HTML file to write. Default: probe.html in the run, and probe-step_N.html for a checkpoint.
        images: number of real images for the measurements.
        timesteps: number of timesteps to examine, nearly uniform in the log signal-to-noise ratio.
        samples: number of images of each class to draw with the class swapped in some stages.
        reference: real images to measure on, as in data.source, or a run directory for its data. Default: the data
            of the model's run.
        reference_split: split of the reference; not with a run directory as the reference, which has a split.
            Default: train, or without a reference the split of the model's run.
        batch_size: number of images per network call. Default: 100, or on a CPU fewer if they are larger than 16x16.
        seed: seed for the choice of images, the drawn images and the permutations.
    """

    model: Path
    out: Path | None = None
    images: Annotated[int, at_least(MIN_PROBE_IMAGES)] = 128
    timesteps: AtLeastTwo = 20
    samples: PositiveInt = 8
    reference: str | None = None
    reference_split: str | None = None
    batch_size: PositiveInt | None = None
    seed: SeedInt = 0


@dataclass(frozen=True)
class BenchmarkCommand(CheckedOptions):
    """Measure speed and memory against diffusers' UNet2DModel with equal weights, alternating in one process.

    What is compared is the step of the trainer with the loop of diffusers' training example, the forward pass, guided
    sampling with DDIM, peak memory, and what a step starts on a GPU. Before, the outputs are checked to be equal.

    Args:
        preset: network and batch: the digits of the first command, 11 million parameters at 32x32, or ADM's network
            for 64x64. Default: digits.
        run_dir: run whose network, data and batch to take instead of a preset.
        source: images to train on, as in data.source. Default: random images, or those of the run.
        batch_size: number of images per step and call. Default: that of the preset or the run.
        mixed_precision: precision of the networks. Default: fp32, or that of the run.
        compile: measure both sides compiled with torch.compile, too.
        rounds: number of rounds, in each of which both sides are timed.
        sampling_steps: number of DDIM steps in sampling.
        only: what to measure, in any order. Default: all.
        budget: number of seconds after which nothing more is begun; what is left out is named. Default: no limit.
        out: folder to write benchmark.json and benchmark.txt to. Default: the table is only printed.
    """

    preset: Literal["digits", "cifar", "adm64"] | None = None
    run_dir: Path | None = None
    source: str | None = None
    batch_size: PositiveInt | None = None
    mixed_precision: Literal["fp32", "bf16", "fp16"] | None = None
    compile: bool = False
    rounds: Annotated[int, at_least(3)] = 20
    sampling_steps: PositiveInt = 10
    only: list[Literal["training", "forward", "memory", "launches", "sampling", "data"]] | None = None
    budget: PositiveInt | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset is not None and self.run_dir is not None:
            raise ValueError(f"preset: {self.preset} is not a run; give --preset or --run-dir, not both")
        if self.only == []:
            raise ValueError("only: the list is empty; give what to measure, such as training,forward")
