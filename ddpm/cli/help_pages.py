"""What the help of each command shows besides its options: which of them are usual, examples, and documents."""

from typing import NamedTuple

from ddpm.config.commands import (
    AblateCommand,
    BenchmarkCommand,
    CompareCommand,
    ConvertCommand,
    EvaluateCommand,
    ProbeCommand,
    PushCommand,
    SampleCommand,
    TrainCommand,
)


class HelpPage(NamedTuple):
    """The help of a command.

    Attributes:
        examples: pairs of a comment and a command.
        documents: where to read on.
        usual: the options that --help shows in addition to those of the command itself, in this order; --help-all shows
            all. Empty if --help shows all too.
    """

    examples: tuple[tuple[str, str], ...]
    documents: tuple[str, ...]
    usual: tuple[str, ...] = ()


HELP_PAGES: dict[type, HelpPage] = {
    TrainCommand: HelpPage(
        (
            ("your own images, one folder per class",
             "python scripts/train.py --data.source path/to/class/folders --data.resolution 64 --run-dir runs/mine"),
            ("an interrupted run goes on; with more steps, a finished one does too",
             "python scripts/train.py --run-dir runs/mine --train.steps 4000"),
            ("options from a file, one of them changed, and what this would cost",
             "python scripts/train.py --config configs/cifar10.yaml --train.batch_size 64 --dry-run"),
            ("on all GPUs of the machine", "accelerate launch scripts/train.py --config configs/cifar10.yaml"),
        ),
        ("docs/own_data.md", "docs/training.md"),
        usual=(
            "data.source", "data.split", "data.resolution", "model.norm", "train.steps", "train.batch_size",
            "train.learning_rate", "tracking.wandb",
        ),
    ),
    SampleCommand: HelpPage(
        (
            ("eight images of each of two classes",
             "python scripts/sample.py runs/digits --classes 3,7 --per-class 8 --guidance-scale 1.5"),
            ("a blend of all neighboring classes in nine images", "python scripts/sample.py runs/digits --blend 9"),
            ("50,000 images as one .npz file", "python scripts/sample.py runs/digits --per-class 5000 --format npz"),
        ),
        ("docs/sampling.md",),
        usual=("sampler", "steps", "guidance-scale", "seed", "batch-size"),
    ),
    EvaluateCommand: HelpPage(
        (
            ("all metrics that apply", "python scripts/evaluate.py runs/digits"),
            ("two metrics with features of Inception-v3",
             "python scripts/evaluate.py runs/mine --extractor inception --metrics frechet_distance,kernel_distance"),
            ("images that are on disk already",
             "python scripts/evaluate.py samples.npz --reference path/to/class/folders"),
        ),
        ("docs/evaluation.md",),
        usual=("sampler", "steps", "guidance-scale", "seed", "batch-size"),
    ),
    CompareCommand: HelpPage(
        (
            ("two runs", "python scripts/compare.py runs/digits runs/digits_groupnorm"),
            ("the page of one run", "python scripts/compare.py runs/digits --out digits.html"),
        ),
        ("docs/evaluation.md",),
    ),
    ConvertCommand: HelpPage(
        (
            ("a released model of ADM",
             "python scripts/convert.py 64x64_diffusion.pt --preset imagenet64 --out models/imagenet64"),
            ("a run with model.norm_groups 8, for diffusers alone",
             "python scripts/convert.py runs/digits8 --to diffusers --out digits_unet2d"),
        ),
        ("docs/sampling.md",),
    ),
    PushCommand: HelpPage(
        (
            ("what would be uploaded", "python scripts/push.py runs/digits --to owner/digits --dry-run"),
            ("the upload", "python scripts/push.py runs/digits --to owner/digits --license apache-2.0"),
        ),
        ("docs/sampling.md",),
    ),
    AblateCommand: HelpPage(
        (
            ("what a study would cost",
             "python scripts/ablate.py --study configs/studies/adagn_vs_groupnorm.yaml --dry-run"),
            ("one half of its runs, on the first of two machines",
             "python scripts/ablate.py --study configs/studies/adagn_vs_groupnorm.yaml --shard 1/2"),
            ("AdaGN or GroupNorm on your own images",
             "python scripts/ablate.py --study configs/studies/own.yaml --data.source path/to/class/folders"),
        ),
        ("docs/own_data.md", "docs/ablation.md"),
        usual=("data.source", "data.resolution", "train.steps"),
    ),
    ProbeCommand: HelpPage(
        (
            ("the newest checkpoint of a run", "python scripts/probe.py runs/digits"),
            ("on fewer images, which is faster", "python scripts/probe.py runs/digits --images 32 --timesteps 8"),
        ),
        ("docs/ablation.md",),
    ),
    BenchmarkCommand: HelpPage(
        (
            ("11 million parameters on this machine", "python scripts/benchmark.py --preset cifar"),
            ("in bf16, eager and compiled, within two minutes",
             "python scripts/benchmark.py --preset cifar --mixed-precision bf16 --compile --budget 120"),
            ("the network and the images of a run with model.norm_groups 8, training only",
             "python scripts/benchmark.py --run-dir runs/digits8 --only training"),
        ),
        ("docs/performance.md",),
    ),
}
