"""The trained model as a diffusers pipeline, which is saved, shared and sampled from.

A saved pipeline contains its own code, so that it can be loaded without this package by
`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`. With this package,
`ClassConditionalPipeline.from_pretrained(folder)` loads it without running the code in the folder.
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor

from ddpm.diffusion.class_labels import Label, Labels, label_tensor
from ddpm.diffusion.guidance import unet_denoiser, with_guidance
from ddpm.diffusion.precision import check_precision
from ddpm.diffusion.samplers import invert
from ddpm.diffusion.sampling import (
    BetweenSeeds,
    Seed,
    batches,
    draw,
    from_uint8,
    images_per_call,
    plan_timesteps,
    to_uint8,
)
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule
from ddpm.diffusion.timesteps import timestep_grid
from ddpm.names import did_you_mean, lookup

PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
# The default sampler of each scheduler, so that replacing `pipeline.scheduler` changes the sampler.
SAMPLER_OF = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp",
    "UniPCMultistepScheduler": "unipc",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
}
OUTPUT_TYPES = ("pil", "np", "pt", "uint8")
PIL_CHANNELS = 4        # the largest number of channels of a Pillow image
_CODE = {"pipeline": "ddpm_pipeline", "unet": "ddpm_unet"}       # module names of the code in a saved pipeline
_MODEL_OPTIONS = ("torch_dtype", "variant")
_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


class ClassConditionalPipeline(DiffusionPipeline):
    """A U-Net, its noise schedule and the names of its classes.

    Args:
        unet: the model.
        scheduler: a diffusers scheduler with the betas and the prediction type; its class determines the default
            sampler.
        id2label: class id (as text) -> class name.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin, id2label: dict | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(id2label={str(i): name for i, name in (id2label or {}).items()})

    @classmethod
    def from_parts(
        cls, unet: ModelMixin, schedule: NoiseSchedule, prediction: str, class_names: Sequence[str]
    ) -> "ClassConditionalPipeline":
        """Create a pipeline from the objects that training uses.

        Args:
            unet: the model.
            schedule: the schedule that it is trained with.
            prediction: what it predicts, an entry of `ddpm.diffusion.objective.PREDICTIONS`.
            class_names: class names in the order of their ids.
        """
        scheduler = DDIMScheduler(
            num_train_timesteps=schedule.num_timesteps,
            trained_betas=schedule.betas.tolist(),
            prediction_type=PREDICTION_TYPES[prediction],
            timestep_spacing="trailing",
            clip_sample=True,
            set_alpha_to_one=True,
        )
        return cls(unet, scheduler, {str(i): name for i, name in enumerate(class_names)})

    # ---------------------------------------------------------------------------------------------- saving, loading

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> "ClassConditionalPipeline":
        """Load a saved pipeline with the code of this package.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a repository on the Hub.
            options: `unet` or `scheduler` to replace the saved one; `torch_dtype`; `variant` of the weights; for the
                Hub `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            ValueError: if files are missing, damaged or of another kind of pipeline.
        """
        if cls.__module__.startswith("diffusers_modules."):      # diffusers is loading the code of the saved pipeline
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        known = ("unet", "scheduler", *_MODEL_OPTIONS, "use_safetensors", "trust_remote_code", *_HUB_OPTIONS)
        for option in options:
            if option not in known:
                raise ValueError(f"{option} is not an option of from_pretrained{did_you_mean(option, known)}")
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if not folder.is_dir():
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or folder.parent.is_dir():
                raise ValueError(f"{name}: no such directory; give a folder, or owner/name of a repository on the Hub")
            folder = Path(snapshot_download(name, **{key: options[key] for key in _HUB_OPTIONS if key in options}))
        index = _read_index(folder, cls.__name__)
        unet = options.get("unet")
        if unet is None:
            _require(folder, "unet/config.json", "unet/diffusion_pytorch_model*.safetensors")
            unet = _load_unet(folder, {key: options[key] for key in _MODEL_OPTIONS if key in options})
        scheduler = options.get("scheduler")
        if scheduler is None:
            _require(folder, "scheduler/scheduler_config.json")
            named = index.get("scheduler")
            kind: Any = getattr(diffusers, str(named[-1]), None) if named else None
            fits = inspect.isclass(kind) and issubclass(kind, SchedulerMixin)
            if not fits:
                raise ValueError(f"{folder / 'model_index.json'}: {named} is not a scheduler of diffusers")
            try:
                scheduler = kind.from_pretrained(folder, subfolder="scheduler")
            except Exception as problem:        # a damaged file can raise any exception
                raise ValueError(f"{folder / 'scheduler'}: cannot be read; copy or export it again") from problem
        pipeline = cls(unet.eval(), scheduler, index.get("id2label"))
        pipeline.register_to_config(_name_or_path=name)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save the pipeline together with the code that loads it; arguments as in diffusers.

        Raises:
            ValueError: for `push_to_hub`, which would upload before the code is saved, and for formats other than
                safetensors.
        """
        if options.get("push_to_hub"):
            raise ValueError("push_to_hub: call `push_to_hub(name)` or scripts/push.py, which also upload the code")
        if not options.get("safe_serialization", True):
            raise ValueError("safe_serialization: only True is possible; other files can run code when they are loaded")
        super().save_pretrained(save_directory, **options)
        self._save_code(Path(save_directory))

    def save_without_weights(self, save_directory: str | Path) -> None:
        """Save all files of `save_pretrained` except the weights."""
        folder = Path(save_directory)
        self.save_config(folder)
        self.scheduler.save_pretrained(folder / "scheduler")
        self._plain_unet.save_config(folder / "unet")
        self._save_code(folder)

    def _save_code(self, folder: Path) -> None:
        """Save the code that loads the pipeline, and name it in the index."""
        file = folder / "model_index.json"
        index = json.loads(file.read_text())
        (folder / f"{_CODE['pipeline']}.py").write_text(_source(self, "A class-conditional diffusion pipeline."))
        index["_class_name"] = [_CODE["pipeline"], type(self).__name__]
        unet = self._plain_unet
        (folder / "unet" / f"{_CODE['unet']}.py").write_text(_source(unet, "A class-conditional U-Net."))
        index["unet"] = [_CODE["unet"], type(unet).__name__]
        file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    # ---------------------------------------------------------------------------------------------- components

    @property
    def _plain_unet(self) -> ModelMixin:
        """The U-Net, and not the module that compiles it."""
        return getattr(self.unet, "_orig_mod", self.unet)

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of their ids."""
        names = self.config.id2label or {}
        return [names.get(str(i), str(i)) for i in range(self.unet.config.num_classes)]

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule with the scheduler's betas."""
        betas = self.scheduler.config.get("trained_betas")
        return NoiseSchedule(self.scheduler.betas if betas is None else torch.tensor(betas, dtype=torch.float64))

    @property
    def prediction(self) -> str:
        """The prediction type of the U-Net, an entry of `ddpm.diffusion.objective.PREDICTIONS`."""
        names = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
        return lookup(names, self.scheduler.config.prediction_type, "the scheduler's prediction_type")

    @property
    def sampler(self) -> str:
        """The sampler of the scheduler's class, an entry of `ddpm.diffusion.samplers.SAMPLERS`."""
        return lookup(SAMPLER_OF, type(self.scheduler).__name__, "scheduler")

    @property
    def images_per_call(self) -> int:
        """The number of images per network call that suits the resolution and the device."""
        return images_per_call(self.unet.config.resolution, self._execution_device)

    def denoiser(
        self,
        guidance_scale: float = 1.0,
        guide: "ClassConditionalPipeline | None" = None,
        interval: Sequence[float] | None = None,
        rescale: float = 0.0,
        clip: bool = True,
        mixed_precision: str = "fp32",
    ) -> Denoiser:
        """Return the U-Net as a denoiser, guided and then clipped (see `ddpm.diffusion.guidance.with_guidance`).

        Args:
            guidance_scale: 1 disables guidance.
            guide: a weaker model of the same data and noise schedule, for autoguidance.
            interval: range (low, high] of sigmas with guidance; all by default.
            rescale: 0 to 1, how far the standard deviation of the guided x_0 is rescaled to that of the conditional
                one.
            clip: whether to clip x_0 to [-1, 1].
            mixed_precision: precision in which the networks compute, an entry of
                `ddpm.diffusion.precision.PRECISIONS`; `fp32` is that of their weights.

        Raises:
            ValueError: if guidance needs a null class that the model does not have, the guide does not fit, or the
                device does not support the precision.
        """
        check_precision(mixed_precision, self._execution_device, "mixed_precision")
        schedule = self.schedule
        base = unet_denoiser(self.unet, schedule, self.prediction, mixed_precision)
        if guidance_scale != 1 and guide is None and self.unet.config.num_classes == 0:
            raise ValueError("guidance_scale: the model has no classes; use 1, or give a guide")
        weak = None
        if guide is not None:
            if guidance_scale == 1:
                raise ValueError("guide: has no effect at guidance_scale 1; use a larger scale, such as 2")
            self._check_guide(guide)
            network = guide.unet.to(self._execution_device)
            weak = unet_denoiser(network, schedule, guide.prediction, mixed_precision)
        return with_guidance(
            base, schedule, self.unet.null_label, guidance_scale,
            guide=weak, interval=interval, rescale=rescale, clip=clip,
        )

    def _check_guide(self, guide: "ClassConditionalPipeline") -> None:
        for key in ("in_channels", "resolution", "num_classes"):
            ours, theirs = self.unet.config[key], guide.unet.config[key]
            if ours != theirs:
                raise ValueError(f"guide: its {key} is {theirs}, the model's is {ours}; use a guide for the same data")
        if self.class_names != guide.class_names:
            raise ValueError("guide: its classes have other names or another order; use a guide for the same data")
        schedule, other = self.schedule.alphas_cumprod, guide.schedule.alphas_cumprod
        if schedule.shape != other.shape or not torch.allclose(schedule, other, rtol=1e-4, atol=1e-7):
            raise ValueError("guide: its noise schedule differs from the model's; use a guide with the same one")

    # ----------------------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | Label = None,
        seeds: Sequence[Seed] | Seed = 0,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        guide: "ClassConditionalPipeline | None" = None,
        sampler: str | None = None,
        eta: float = 0.0,
        timestep_spacing: str = "trailing",
        batch_size: int | None = None,
        noise: Tensor | None = None,
        clip: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
        num_images: int | None = None,
        mixed_precision: str = "fp32",
    ) -> ImagePipelineOutput | tuple:
        """Generate one image per label, or several images of one label.

        Args:
            class_labels: names or ids; None is the null class, the only one of a model without classes; a dict from
                class to weight is a blend; a list of these gives one label per resolution of the network, from the
                finest to the coarsest.
            seeds: one seed per label, or the first of consecutive seeds; a `BetweenSeeds` is a point between two seeds.
            num_inference_steps: maximum number of evaluations of the denoiser per image.
            guidance_scale: guidance scale; 1 disables guidance.
            guidance_interval: range (low, high] of sigmas with guidance; all by default.
            guidance_rescale: 0 to 1, how far the standard deviation of the guided x_0 is rescaled to that of the
                conditional one, against overexposure.
            guide: a weaker model, for autoguidance instead of classifier-free guidance.
            sampler: an entry of `ddpm.diffusion.samplers.SAMPLERS`; by default that of the scheduler.
            eta: noise added by ddim, 0 to 1.
            timestep_spacing: an entry of `ddpm.diffusion.timesteps.SPACINGS`.
            batch_size: images per network call; smaller batches are padded. By default the number of labels, but at
                most `images_per_call`. Images are identical for the same batch size, and within one gray level for
                another.
            noise: initial noise (N, C, H, W), such as that from `invert`; by default that of the seeds.
            clip: whether to clip x_0 to [-1, 1] at each step.
            output_type: `pil` (images of mode L, LA, RGB or RGBA, for 1 to 4 channels), `np` (N, H, W, C in [0, 1]),
                `pt` (N, C, H, W in [0, 1]) or `uint8` (N, C, H, W).
            return_dict: whether to return an object with `.images` or a tuple.
            num_images: number of images of a single label; by default one for each label.
            mixed_precision: precision in which the network computes, `fp32`, `bf16` or `fp16` (on a GPU); the rest is
                always in fp32. The weights keep theirs, which `pipeline.to(torch.bfloat16)` changes.

        Returns:
            The images.

        Raises:
            ValueError: for an unknown label or an invalid setting.
        """
        self._check_output_type(output_type)
        labels = _repeat(self.labels(class_labels), num_images)
        batch_size = min(self.images_per_call, len(labels)) if batch_size is None else batch_size
        draw_batch = self.make_draw_batch(
            labels,
            _expand_seeds(seeds, len(labels)),
            sampler=sampler or self.sampler,
            steps=num_inference_steps,
            timestep_spacing=timestep_spacing,
            eta=eta,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            guide=guide,
            batch_size=batch_size,
            noise=noise,
            clip=clip,
            mixed_precision=mixed_precision,
        )
        images = torch.cat([draw_batch(indices) for indices in self.progress_bar(batches(len(labels), batch_size))])
        self.maybe_free_model_hooks()
        output = _convert_images(images, output_type)
        return ImagePipelineOutput(output) if return_dict else (output,)

    def _check_output_type(self, output_type: str) -> None:
        lookup(dict.fromkeys(OUTPUT_TYPES), output_type, "output_type")
        channels = self.unet.config.in_channels
        if output_type == "pil" and channels > PIL_CHANNELS:
            others = ", ".join(name for name in OUTPUT_TYPES if name != "pil")
            raise ValueError(
                f"output_type: pil has at most {PIL_CHANNELS} channels, and the images of this model have {channels}; "
                f"allowed: {others}"
            )

    def labels(self, class_labels: Labels | Label) -> Tensor:
        """Return labels in the form that the U-Net takes; see `__call__`.

        Raises:
            ValueError: for an unknown label or an empty list.
        """
        labels = _to_list(class_labels)
        if labels is None or isinstance(labels, str | Integral | Mapping):
            labels = [labels]
        resolutions = len(getattr(self.unet.config, "channel_mult", ()))
        return label_tensor(labels, self.class_names, self.unet.null_label, resolutions)

    def make_draw_batch(
        self,
        labels: Tensor,
        seeds: Sequence[Seed],
        *,
        sampler: str = "ddim",
        steps: int = 50,
        timestep_spacing: str = "trailing",
        eta: float = 0.0,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        guide: "ClassConditionalPipeline | None" = None,
        batch_size: int | None = None,
        noise: Tensor | None = None,
        clip: bool = True,
        mixed_precision: str = "fp32",
    ) -> Callable[[list[int]], Tensor]:
        """Return a function that generates a batch; arguments as in `__call__` and `ddpm.diffusion.sampling.draw`.

        Returns:
            A function from at most `batch_size` indices of `labels` to images, uint8 (B, C, H, W) on the CPU.

        Raises:
            ValueError: for settings that do not fit the model, before the network is called.
        """
        schedule, config = self.schedule, self.unet.config
        batch_size = self.images_per_call if batch_size is None else batch_size
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size: {batch_size!r} is out of range; allowed: 1 or more")
        if guide is not None:
            self._check_guide(guide)
            _check_labels_for(guide, labels)
        plan_timesteps(schedule, sampler, steps, timestep_spacing, eta)
        shape = (config.in_channels, config.resolution, config.resolution)
        if noise is not None and tuple(noise.shape) != (len(labels), *shape):
            raise ValueError(f"noise: the shape {tuple(noise.shape)} does not fit; allowed is {(len(labels), *shape)}")
        one_batch = partial(
            draw,
            self.denoiser(guidance_scale, guide, guidance_interval, guidance_rescale, clip, mixed_precision),
            schedule,
            shape=shape,
            device=self._execution_device,
            sampler=sampler,
            steps=steps,
            timestep_spacing=timestep_spacing,
            eta=eta,
            batch_size=batch_size,
        )

        def draw_batch(indices: list[int]) -> Tensor:
            x_T = None if noise is None else noise[indices]
            return to_uint8(one_batch(labels[indices], [seeds[i] for i in indices], x_T=x_T)).cpu()

        return draw_batch

    @torch.no_grad()
    def invert(
        self,
        images: Tensor,
        class_labels: Labels | Label,
        num_inference_steps: int = 50,
        timestep_spacing: str = "trailing",
        iterations: int = 3,
        batch_size: int | None = None,
        mixed_precision: str = "fp32",
    ) -> Tensor:
        """Return the noise from which DDIM generates the given images.

        Pass it to `__call__` as `noise`, with `clip=False`, `sampler="ddim"` and the same steps and spacing.

        Args:
            images: uint8 (N, C, H, W).
            class_labels: one per image, as in `__call__`.
            num_inference_steps: number of timesteps.
            timestep_spacing: an entry of `ddpm.diffusion.timesteps.SPACINGS`.
            iterations: evaluations of the denoiser per timestep.
            batch_size: maximum number of images per network call; by default `images_per_call`.
            mixed_precision: as in `__call__`.

        Returns:
            Noise (N, C, H, W) on the CPU.

        Raises:
            ValueError: for an unknown label, an invalid setting, or images of another shape.
        """
        labels, config = self.labels(class_labels), self.unet.config
        expected = (len(labels), config.in_channels, config.resolution, config.resolution)
        if images.dtype != torch.uint8 or tuple(images.shape) != expected:
            raise ValueError(f"images: {images.dtype} {tuple(images.shape)}; allowed is torch.uint8 {expected}")
        schedule, device = self.schedule, self._execution_device
        timesteps = timestep_grid(schedule, num_inference_steps, timestep_spacing)
        denoiser = self.denoiser(clip=False, mixed_precision=mixed_precision)
        x_0, labels = from_uint8(images).to(device), labels.to(device)
        noise = [
            invert(denoiser, schedule, x_0[at], labels[at], timesteps, iterations).cpu()
            for at in batches(len(labels), batch_size or self.images_per_call)
        ]
        self.maybe_free_model_hooks()
        return torch.cat(noise)


def _to_list(values: Any) -> Any:
    """Convert arrays and tensors to lists or numbers; return anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def _repeat(labels: Tensor, count: int | None) -> Tensor:
    """Return the labels, or `count` copies of a single one.

    Raises:
        ValueError: if the count is not 1 or more, or there are several labels.
    """
    if count is None:
        return labels
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"num_images: {count!r} is out of range; allowed: 1 or more")
    if len(labels) > 1:
        raise ValueError(f"num_images: there are {len(labels)} labels; give a single one, or leave num_images out")
    return labels.repeat(int(count), *[1] * (labels.ndim - 1))


def _expand_seeds(seeds: Any, count: int) -> list[Seed]:
    """Return one seed for each of `count` images; a single integer is the first of consecutive seeds.

    Raises:
        ValueError: if there is another number of seeds, or one is not an integer in 0..2^63 - 1.
    """
    listed = [seeds] if isinstance(seeds, BetweenSeeds) else _to_list(seeds)
    if isinstance(listed, Integral):
        listed = range(int(listed), int(listed) + count)
    if not all(isinstance(seed, BetweenSeeds | Integral) for seed in listed):
        raise ValueError(f"seeds: {listed} are not all whole numbers; allowed: 0 to 2^63 - 1")
    if len(listed) != count:
        raise ValueError(f"seeds: {len(listed)} were given for {count} labels; give one per label, or only the first")
    expanded: list[Seed] = [seed if isinstance(seed, BetweenSeeds) else int(seed) for seed in listed]
    for seed in expanded:
        if not all(0 <= end < 2**63 for end in (seed[:2] if isinstance(seed, BetweenSeeds) else [seed])):
            raise ValueError(f"seeds: {seed} is out of range; allowed: 0 to 2^63 - 1")
    return expanded


def _check_labels_for(guide: ClassConditionalPipeline, labels: Tensor) -> None:
    """Check that a guide accepts the labels of the model that it guides."""
    weighted, classes = labels.is_floating_point(), guide.unet.config.num_classes
    if labels.ndim == 2 + weighted and labels.shape[1] != len(guide.unet.config.channel_mult):
        raise ValueError("guide: it has another number of resolutions; use one label per image, not per resolution")
    num_embeddings = classes + (guide.unet.null_label is not None)
    if labels.shape[-1] != num_embeddings if weighted else int(labels.max()) >= num_embeddings:
        raise ValueError(
            "guide: one of the two models has a null class and the other has not; use class names or ids, without "
            "blends and `none`"
        )


def _load_unet(folder: Path, options: dict[str, Any]) -> ModelMixin:
    model = importlib.import_module("ddpm.models.unet").UNet
    try:
        unet, info = model.from_pretrained(
            folder, subfolder="unet", use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as problem:        # a damaged file can raise any exception
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ValueError(f"{folder / 'unet'}: cannot be loaded: {reason[:200]}") from problem
    if info["missing_keys"]:
        raise ValueError(f"{folder / 'unet'}: {info['missing_keys'][0]} is missing; copy or export the pipeline again")
    return unet


def _convert_images(images: Tensor, output_type: str) -> Any:
    """Convert uint8 images (N, C, H, W) to an entry of OUTPUT_TYPES."""
    if output_type == "uint8":
        return images
    if output_type == "pt":
        return images.float() / 255
    channels_last = images.permute(0, 2, 3, 1).numpy()                                                  # (N, H, W, C)
    if output_type == "np":
        return channels_last.astype("float32") / 255
    return [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image) for image in channels_last]


def _source(component: Any, title: str) -> str:
    """Return the source of a component's class as one file that does not need this package."""
    kind = type(component)
    if kind.__module__.startswith("diffusers_modules."):         # the component was loaded from such a file
        return Path(inspect.getfile(kind)).read_text()
    version = importlib.import_module("ddpm").__version__
    return importlib.import_module("ddpm.single_file").bundle(kind.__module__, title, version)


def _read_index(folder: Path, expected: str) -> dict:
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(f"{folder}: model_index.json is missing; give the folder of a saved pipeline")
    try:
        index = json.loads(file.read_text())
        kind = index["_class_name"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{file}: cannot be read; copy or export the pipeline again") from None
    kind = kind[-1] if isinstance(kind, list) else kind
    if kind != expected:
        raise ValueError(f"{folder}: contains a {kind}; give the folder of a {expected}")
    return index


def _require(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise ValueError(f"{folder}: {pattern.replace('*', '')} is missing; copy or export the pipeline again")
