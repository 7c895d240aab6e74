"""The trained model as a diffusers pipeline: what is exported, shared and sampled from."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from ddpm.config import SampleConfig
from ddpm.manifest import MANIFEST, damage, newest_intact
from ddpm.models.unet import UNet
from ddpm.names import lookup
from ddpm.processes import check_launch, first_on_main, join_processes
from ddpm.sampling.files import plan_seeds, write_samples
from ddpm.sampling.guidance import unet_denoiser, with_guidance
from ddpm.sampling.images import draw, label_ids, timestep_grid
from ddpm.sampling.samplers import SAMPLERS, Denoiser
from ddpm.schedule import NoiseSchedule

_PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}


class ClassConditionalPipeline(DiffusionPipeline):
    """A U-Net, its noise schedule and the names of its classes.

    Args:
        unet: the model.
        scheduler: a diffusers scheduler that holds the betas (`trained_betas`) and what the U-Net predicts.
        id2label: class id (as text) -> name.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet, scheduler: DDIMScheduler, id2label: dict | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label=id2label)

    @classmethod
    def from_parts(
        cls, unet: UNet, schedule: NoiseSchedule, prediction: str, class_names: Sequence[str]
    ) -> "ClassConditionalPipeline":
        """Joins what the trainer has.

        Args:
            unet: the model.
            schedule: the one that it is trained with.
            prediction: what it predicts, an entry of `ddpm.objective.PREDICTIONS`.
            class_names: one name per class, in the order of ids.
        """
        scheduler = DDIMScheduler(
            num_train_timesteps=schedule.num_timesteps,
            trained_betas=schedule.betas.tolist(),
            prediction_type=_PREDICTION_TYPES[prediction],
            timestep_spacing="trailing",
            clip_sample=True,
            set_alpha_to_one=True,
        )
        return cls(unet, scheduler, {str(i): name for i, name in enumerate(class_names)})

    @property
    def class_names(self) -> list[str]:
        """Names in the order of ids."""
        names = self.config.id2label or {}
        return [names.get(str(i), str(i)) for i in range(self.unet.config.num_classes)]

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule, from the scheduler's betas."""
        return NoiseSchedule(torch.tensor(self.scheduler.config.trained_betas, dtype=torch.float64))

    @property
    def prediction(self) -> str:
        """What the U-Net predicts, an entry of `ddpm.objective.PREDICTIONS`."""
        return {theirs: ours for ours, theirs in _PREDICTION_TYPES.items()}[self.scheduler.config.prediction_type]

    def denoiser(self, guidance: float = 1.0) -> Denoiser:
        """The U-Net as a denoiser: guided, then clipped.

        Raises:
            ValueError: if guidance is asked of a model that has no null class.
        """
        base = unet_denoiser(self.unet, self.schedule, self.prediction)
        return with_guidance(base, self.schedule, self.unet.null_label, guidance)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[str | int] | str | int,
        seeds: Sequence[int] | int = 0,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        sampler: str = "ddim",
        eta: float = 0.0,
        spacing: str = "trailing",
        batch_size: int = 100,
    ) -> Tensor:
        """Draws one image for each label.

        Args:
            class_labels: names or ids.
            seeds: one for each label, or the first of as many consecutive ones.
            num_inference_steps: network evaluations per image.
            guidance_scale: of classifier-free guidance; 1 is none.
            sampler: an entry of `ddpm.sampling.samplers.SAMPLERS`.
            eta: noise of ddim, 0 to 1.
            spacing: of the timesteps, an entry of `ddpm.sampling.samplers.SPACINGS`.
            batch_size: images per network call; short batches are filled up, so that it alone sets the shape.

        Returns:
            uint8 (N, C, H, W).

        Raises:
            ValueError: for an unknown label or setting.
        """
        labels = label_ids([class_labels] if isinstance(class_labels, (str, int)) else class_labels, self.class_names)
        seeds = list(range(seeds, seeds + len(labels)) if isinstance(seeds, int) else seeds)
        if len(seeds) != len(labels):
            raise ValueError(f"seeds: {len(seeds)} were given for {len(labels)} labels; give one each, or the first")
        settings = SampleConfig(
            sampler=sampler,
            steps=num_inference_steps,
            spacing=spacing,
            eta=eta,
            guidance=guidance_scale,
            batch_size=batch_size,
        )
        return torch.cat([images for _, images in self.drawer(labels, seeds, settings)((0, 1))])

    def drawer(
        self, labels: Sequence[int], seeds: Sequence[int], settings: SampleConfig
    ) -> Callable[[tuple[int, int]], Iterator[tuple[list[int], Tensor]]]:
        """Prepares `ddpm.sampling.images.draw` for this model.

        Returns:
            (i, n) -> the batches of the i-th of n processes.

        Raises:
            ValueError: for settings that do not fit the model, before anything is drawn.
        """
        config = self.unet.config
        lookup(SAMPLERS, settings.sampler, "sample.sampler")
        timestep_grid(self.schedule.num_timesteps, settings.steps, settings.spacing)
        return partial(
            draw,
            self.denoiser(settings.guidance),
            self.schedule,
            labels,
            seeds,
            (config.in_channels, config.resolution, config.resolution),
            self.unet.device,
            sampler=settings.sampler,
            num_steps=settings.steps,
            eta=settings.eta,
            spacing=settings.spacing,
            batch_size=settings.batch_size,
        )


def sample_to_folder(model: Path, classes: str | None, settings: SampleConfig, out: Path, npz: bool = False) -> None:
    """Draws images of each class into a folder, over any number of processes.

    Args:
        model: as in `load_pipeline`.
        classes: names or ids, separated by commas; None means all.
        settings: how to draw.
        out: the folder.
        npz: whether to write all images as one file too.

    Raises:
        ValueError: for a model that cannot be loaded, an unknown class, or a setting that does not fit the model.
    """
    processes = join_processes()
    check_launch(processes.num_processes, "sample.py")

    def prepare() -> tuple[list[int], list[int], list[str], Callable]:
        pipeline = load_pipeline(model).to(processes.device)
        names = pipeline.class_names
        asked = range(len(names)) if classes is None else [c.strip() for c in classes.split(",") if c.strip()]
        ids = list(dict.fromkeys(label_ids(asked, names)))
        labels, seeds = plan_seeds(ids, settings.per_class, settings.seed, len(names))
        return labels, seeds, names, pipeline.drawer(labels, seeds, settings)

    labels, seeds, names, draw_part = first_on_main(processes, prepare)
    grid = write_samples(out, draw_part, labels, seeds, names, npz)
    if processes.is_main_process:
        print(f"{len(labels)} images of {len(set(labels))} classes in {out}; all together: {grid}")


def load_pipeline(path: Path) -> ClassConditionalPipeline:
    """Loads a run directory (its newest good checkpoint), a checkpoint, or an exported pipeline.

    Raises:
        ValueError: if there is none of them, or it is damaged.
    """
    newest, damaged = newest_intact(path / "checkpoints")
    for directory, problem in damaged.items():
        print(f"WARNING: {directory} is damaged ({problem}); using the one before it", file=sys.stderr)
    if newest is not None:
        return _load(newest)
    if (path / "pipeline").is_dir():
        print(f"WARNING: {path} has no good checkpoint; using {path / 'pipeline'}", file=sys.stderr)
        return load_pipeline(path / "pipeline")
    if damaged:
        raise ValueError(f"{path}: every checkpoint is damaged; restore one, or train again")
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory; give a run directory, one of its checkpoints, or a pipeline")
    if (path / "model_index.json").is_file():
        problem = damage(path) if (path / MANIFEST).is_file() else None
        if problem is not None:
            raise ValueError(f"{path}: damaged, {problem}")
        return _load(path)
    raise ValueError(f"{path}: holds neither checkpoints nor a pipeline; has the run reached its first checkpoint?")


def _load(path: Path) -> ClassConditionalPipeline:
    try:
        index = json.loads((path / "model_index.json").read_text())
        kind = index["_class_name"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path / 'model_index.json'}: cannot be read") from None
    if kind != ClassConditionalPipeline.__name__:
        raise ValueError(f"{path}: holds a {kind}, not a {ClassConditionalPipeline.__name__}")
    unet = UNet.from_pretrained(path, subfolder="unet", use_safetensors=True)
    scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    pipeline = ClassConditionalPipeline(unet.eval(), scheduler, index.get("id2label"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
