"""What each script can be asked to do: a dataclass for each, whose docstring is the help of its options."""

from dataclasses import dataclass
from pathlib import Path

from ddpm.config.sections import Config


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
        reference_split: the split of a reference that is no run directory, or rows of one, as train[:80%]; train unless
            given.
        held_out: real images that the model was not trained on, as data.source.
        held_out_split: the split of them, or rows of one, as train[80%:]; train unless given; without held_out a split
            of the run's own source.
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


@dataclass(frozen=True)
class AblateCommand:
    """Run a study: every arm with every seed, evaluated, compared and reported; the same command again goes on.

    Args:
        study: YAML file of the question, the base configuration, the arms, the seeds and the deciding metric.
        run: directory of the study; runs/ and the name of the file unless given.
        shard: i/n runs the i-th of n parts of the study, so that several machines can share it.
        dry_run: say what the study would take, and stop.
    """

    study: Path
    run: Path | None = None
    shard: str = "1/1"
    dry_run: bool = False

    def __post_init__(self) -> None:
        i, slash, n = self.shard.partition("/")
        whole = bool(slash) and all(part.isascii() and part.isdecimal() for part in (i, n))
        if not whole or not 1 <= int(i) <= int(n):
            raise ValueError(f"shard: {self.shard!r} is no part of a study; give i/n with i from 1 to n, as 2/4")

    @property
    def part(self) -> tuple[int, int]:
        """The shard as numbers (i, n), i from 1 to n."""
        i, n = self.shard.split("/")
        return int(i), int(n)


@dataclass(frozen=True)
class ProbeCommand:
    """Show what the modulation of a trained model does, as one HTML page with the numbers beside it.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline.
        out: the page; probe.html inside the run unless given, for a checkpoint of it probe-step_N.html.
        images: real images for what is measured on them, 20 or more.
        timesteps: timesteps at which the modulation is looked at, nearly even in the log signal-to-noise ratio.
        samples: images of each class that are drawn with the class swapped at some depths.
        reference: real images to measure on, as data.source, or a run directory for its data; the data of the model's
            run unless given.
        reference_split: the split of a reference that is no run directory, train unless given; without a reference,
            that of the source of the model's run.
        batch_size: images per network call.
        seed: of the images that are chosen and drawn, and of permutations.
    """

    model: Path
    out: Path | None = None
    images: int = 128
    timesteps: int = 20
    samples: int = 8
    reference: str | None = None
    reference_split: str | None = None
    batch_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 20), ("timesteps", 2), ("samples", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} is out of range; allowed: {least} or more")
        if not 0 <= self.seed < 2**62:
            raise ValueError(f"seed: {self.seed} is out of range; allowed: 0 to 2^62 - 1")
