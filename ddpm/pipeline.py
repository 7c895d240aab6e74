"""The trained model as a diffusers pipeline: what is exported, shared and sampled from.

A saved pipeline carries its own code, so that people without this package load it by
`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`. With the package,
`ClassConditionalPipeline.from_pretrained(folder)` loads it and never runs what came with it.
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

from ddpm.diffusion.class_labels import Label, label_tensor
from ddpm.diffusion.guidance import unet_denoiser, with_guidance
from ddpm.diffusion.samplers import invert
from ddpm.diffusion.sampling import Seed, Walk, batches, check_drawing, draw, from_uint8, to_uint8
from ddpm.diffusion.schedule import Denoiser, NoiseSchedule
from ddpm.diffusion.timesteps import timestep_grid
from ddpm.names import did_you_mean, lookup

PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
# What is drawn with where no sampler is named: that of the scheduler, which diffusers' users swap.
SAMPLER_OF = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpmpp",
    "UniPCMultistepScheduler": "unipc",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
}
OUTPUT_TYPES = ("pil", "np", "pt", "uint8")
_CODE = {"pipeline": "ddpm_pipeline", "unet": "ddpm_unet"}       # names of the modules that are shipped
_MODEL_OPTIONS = ("torch_dtype", "variant")
_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


class ClassConditionalPipeline(DiffusionPipeline):
    """A U-Net, its noise schedule and the names of its classes.

    Args:
        unet: the model.
        scheduler: a diffusers scheduler that holds the betas and what the U-Net predicts; its class is the default
            sampler.
        id2label: class id (as text) -> name.
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
        """Joins what the trainer has.

        Args:
            unet: the model.
            schedule: the one that it is trained with.
            prediction: what it predicts, an entry of `ddpm.diffusion.objective.PREDICTIONS`.
            class_names: one name per class, in the order of ids.
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
        """Loads a saved pipeline with the code of this package.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a repository on the hub.
            options: `unet` or `scheduler` in place of the saved one; `torch_dtype`; `variant` of the weights; for the
                hub `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            ValueError: if parts are missing, cannot be read, or are of another kind.
        """
        if cls.__module__.startswith("diffusers_modules."):      # the shipped code, which diffusers is loading
            return super().from_pretrained(pretrained_model_name_or_path, **options)
        known = ("unet", "scheduler", *_MODEL_OPTIONS, "use_safetensors", "trust_remote_code", *_HUB_OPTIONS)
        for option in options:
            if option not in known:
                raise ValueError(f"{option} is not an option of from_pretrained{did_you_mean(option, known)}")
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if not folder.is_dir():
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or folder.parent.is_dir():
                raise ValueError(f"{name}: no such directory, and no owner/name of a repository on the hub")
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
            kind = getattr(diffusers, str(named[-1]), None) if named else None
            if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
                raise ValueError(f"{folder / 'model_index.json'}: {named} is no scheduler of diffusers")
            try:
                scheduler = kind.from_pretrained(folder, subfolder="scheduler")
            except Exception as problem:        # damaged files fail in as many ways as there are bytes
                raise ValueError(f"{folder / 'scheduler'}: cannot be read") from problem
        pipeline = cls(unet.eval(), scheduler, index.get("id2label"))
        pipeline.register_to_config(_name_or_path=name)
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Saves the pipeline together with the code that loads it; arguments as in diffusers.

        Raises:
            ValueError: if it is also to be pushed, which would happen before the code is there, or not as safetensors.
        """
        if options.get("push_to_hub"):
            raise ValueError("push_to_hub: call `push_to_hub(name)` or scripts/push.py, which upload the code as well")
        if not options.get("safe_serialization", True):
            raise ValueError("safe_serialization: only True is possible; other files can run code when they are loaded")
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        file = folder / "model_index.json"
        index = json.loads(file.read_text())
        (folder / f"{_CODE['pipeline']}.py").write_text(_source(self, "A class-conditional diffusion pipeline."))
        index["_class_name"] = [_CODE["pipeline"], type(self).__name__]
        unet = getattr(self.unet, "_orig_mod", self.unet)        # of a compiled one
        (folder / "unet" / f"{_CODE['unet']}.py").write_text(_source(unet, "A class-conditional U-Net."))
        index["unet"] = [_CODE["unet"], type(unet).__name__]
        file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    # ---------------------------------------------------------------------------------------------- what it is made of

    @property
    def class_names(self) -> list[str]:
        """Names in the order of ids."""
        names = self.config.id2label or {}
        return [names.get(str(i), str(i)) for i in range(self.unet.config.num_classes)]

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule, from the scheduler's betas."""
        betas = self.scheduler.config.get("trained_betas")
        return NoiseSchedule(self.scheduler.betas if betas is None else torch.tensor(betas, dtype=torch.float64))

    @property
    def prediction(self) -> str:
        """What the U-Net predicts, an entry of `ddpm.diffusion.objective.PREDICTIONS`."""
        names = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
        return lookup(names, self.scheduler.config.prediction_type, "the scheduler's prediction_type")

    @property
    def sampler(self) -> str:
        """The sampler that the scheduler stands for, an entry of `ddpm.diffusion.samplers.SAMPLERS`."""
        return lookup(SAMPLER_OF, type(self.scheduler).__name__, "scheduler")

    def denoiser(
        self,
        guidance_scale: float = 1.0,
        guide: "ClassConditionalPipeline | None" = None,
        interval: Sequence[float] | None = None,
        rescale: float = 0.0,
        clip: bool = True,
    ) -> Denoiser:
        """The U-Net as a denoiser: guided, then clipped; arguments as in `ddpm.diffusion.guidance.with_guidance`.

        Args:
            guidance: its scale.
            guide: a weaker model of the same data and noise schedule, for autoguidance.
            interval: of noise levels in which there is guidance.
            rescale: 0 to 1.
            clip: whether to clip x_0 to [-1, 1].

        Raises:
            ValueError: if guidance is asked of a model that has no null class, or of a guide that does not fit.
        """
        schedule = self.schedule
        base = unet_denoiser(self.unet, schedule, self.prediction)
        if guidance_scale != 1 and guide is None and self.unet.config.num_classes == 0:
            raise ValueError("sample.guidance_scale: the model has no classes, so only 1 is possible without a guide")
        weak = None
        if guide is not None:
            if guidance_scale == 1:
                raise ValueError("guide: has no effect at a guidance of 1; give a larger one, such as 2")
            self._check_guide(guide)
            weak = unet_denoiser(guide.unet.to(self._execution_device), schedule, guide.prediction)
        return with_guidance(
            base, schedule, self.unet.null_label, guidance_scale, guide=weak, interval=interval, rescale=rescale, clip=clip
        )

    def _check_guide(self, guide: "ClassConditionalPipeline") -> None:
        for key in ("in_channels", "resolution", "num_classes"):
            ours, theirs = self.unet.config[key], guide.unet.config[key]
            if ours != theirs:
                raise ValueError(f"guide: its {key} is {theirs}, the model's is {ours}; give a model of the same data")
        if self.class_names != guide.class_names:
            raise ValueError("guide: its classes are others, or in another order; give a model of the same data")
        ours, theirs = self.schedule.alphas_cumprod, guide.schedule.alphas_cumprod
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7):
            raise ValueError("guide: its noise schedule is another; give a model that was trained with the same one")

    # ----------------------------------------------------------------------------------------------------- drawing

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[Label | Sequence[Label]] | Label,
        seeds: Sequence[Seed] | int = 0,
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
    ) -> ImagePipelineOutput | tuple:
        """Draws one image for each label.

        Args:
            class_labels: names or ids; None is the null class; a dict from class to weight is a blend; a list of these
                gives one to each level of the network, from the finest resolution to the coarsest.
            seeds: one for each label, or the first of as many consecutive ones; a `Walk` is between two seeds.
            num_inference_steps: network evaluations per image, at most.
            guidance_scale: of guidance; 1 is none.
            guidance_interval: noise levels (low, high] in which there is guidance; all unless given.
            guidance_rescale: 0 to 1, against overexposed images.
            guide: a weaker model, for autoguidance instead of classifier-free guidance.
            sampler: an entry of `ddpm.diffusion.samplers.SAMPLERS`; that of the scheduler unless given.
            eta: noise of ddim, 0 to 1.
            timestep_spacing: of the timesteps, an entry of `ddpm.diffusion.timesteps.SPACINGS`.
            batch_size: images per network call, short batches being filled up; as many as are asked for, at most 100,
                unless given. Pixels are equal at an equal batch size, and within one grey level otherwise.
            noise: (N, C, H, W), starts there instead of at the seeds' noise, such as what `invert` returns.
            clip: whether x_0 is clipped to [-1, 1] at each step.
            output_type: `pil`, `np` (N, H, W, C in [0, 1]), `pt` (N, C, H, W in [0, 1]) or `uint8` (N, C, H, W).
            return_dict: whether to return an object with `.images` or a tuple.

        Returns:
            The images.

        Raises:
            ValueError: for an unknown label or setting.
        """
        lookup(dict.fromkeys(OUTPUT_TYPES), output_type, "output_type")
        labels = self.labels(class_labels)
        seeds = [seeds] if isinstance(seeds, Walk) else _plain(seeds)
        seeds = list(range(seeds, seeds + len(labels)) if isinstance(seeds, Integral) else seeds)
        if not all(isinstance(seed, Walk | Integral) for seed in seeds):
            raise ValueError(f"seeds: {seeds} are not all whole numbers")
        seeds = [seed if isinstance(seed, Walk) else int(seed) for seed in seeds]
        if len(seeds) != len(labels):
            raise ValueError(f"seeds: {len(seeds)} were given for {len(labels)} labels; give one each, or the first")
        for seed in seeds:
            if not all(0 <= end < 2**63 for end in (seed[:2] if isinstance(seed, Walk) else [seed])):
                raise ValueError(f"seeds: {seed} is out of range; allowed: 0 to 2^63 - 1")
        batch_size = min(100, len(labels)) if batch_size is None else batch_size
        draw_batch = self.drawer(
            labels,
            seeds,
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
        )
        images = torch.cat([draw_batch(indices) for indices in self.progress_bar(batches(len(labels), batch_size))])
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(_as(output_type, images)) if return_dict else (_as(output_type, images),)

    def labels(self, class_labels: Sequence[Label | Sequence[Label]] | Label) -> Tensor:
        """Labels as the U-Net takes them; see `__call__`.

        Raises:
            ValueError: for an unknown label, or none.
        """
        class_labels = _plain(class_labels)
        single = class_labels is None or isinstance(class_labels, str | Integral | Mapping)
        levels = len(getattr(self.unet.config, "channel_mult", ()))
        return label_tensor([class_labels] if single else class_labels, self.class_names, self.unet.null_label, levels)

    def drawer(
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
        batch_size: int = 100,
        noise: Tensor | None = None,
        clip: bool = True,
    ) -> Callable[[list[int]], Tensor]:
        """Prepares the drawing of images; arguments as in `__call__` and `ddpm.diffusion.sampling.draw`.

        Returns:
            Places in `labels`, at most `batch_size` of them -> uint8 (len, C, H, W) on the CPU.

        Raises:
            ValueError: for settings that do not fit the model, before anything is drawn.
        """
        schedule, config = self.schedule, self.unet.config
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"sample.batch_size: {batch_size!r} is out of range; allowed: 1 or more")
        if guide is not None:
            _check_labels_for(guide, labels)
        check_drawing(schedule, sampler, steps, timestep_spacing, eta)
        shape = (config.in_channels, config.resolution, config.resolution)
        if noise is not None and tuple(noise.shape) != (len(labels), *shape):
            raise ValueError(f"noise: its shape is {tuple(noise.shape)}, not {(len(labels), *shape)}")
        one_batch = partial(
            draw,
            self.denoiser(guidance_scale, guide, guidance_interval, guidance_rescale, clip),
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
            start = None if noise is None else noise[indices]
            return to_uint8(one_batch(labels[indices], [seeds[i] for i in indices], x_T=start)).cpu()

        return draw_batch

    @torch.no_grad()
    def invert(
        self,
        images: Tensor,
        class_labels: Sequence[Label | Sequence[Label]] | Label,
        num_inference_steps: int = 50,
        timestep_spacing: str = "trailing",
        iterations: int = 3,
        batch_size: int = 100,
    ) -> Tensor:
        """The noise from which DDIM draws given images.

        Pass it to `__call__` as `noise`, with `clip=False`, `sampler="ddim"` and as many steps.

        Args:
            images: uint8 (N, C, H, W).
            class_labels: of each image, as in `__call__`.
            num_inference_steps: timesteps; draw with as many.
            timestep_spacing: of the timesteps; draw with the same.
            iterations: network evaluations per timestep.
            batch_size: images per network call, at most.

        Returns:
            (N, C, H, W) on the CPU.

        Raises:
            ValueError: for an unknown label or setting, or images of another shape.
        """
        labels, config = self.labels(class_labels), self.unet.config
        expected = (len(labels), config.in_channels, config.resolution, config.resolution)
        if images.dtype != torch.uint8 or tuple(images.shape) != expected:
            raise ValueError(f"images: {images.dtype} {tuple(images.shape)}; allowed is torch.uint8 {expected}")
        schedule, device = self.schedule, self._execution_device
        timesteps = timestep_grid(schedule, num_inference_steps, timestep_spacing)
        denoiser = self.denoiser(clip=False)
        x_0, labels = from_uint8(images).to(device), labels.to(device)
        parts = batches(len(labels), batch_size)
        noise = [invert(denoiser, schedule, x_0[at], labels[at], timesteps, iterations).cpu() for at in parts]
        self.maybe_free_model_hooks()
        return torch.cat(noise)


def _plain(values: Any) -> Any:
    """Arrays and tensors as lists or numbers."""
    return values.tolist() if hasattr(values, "tolist") else values


def _check_labels_for(guide: ClassConditionalPipeline, labels: Tensor) -> None:
    """Refuses labels of a model that its guide cannot take."""
    weighted, classes = labels.is_floating_point(), guide.unet.config.num_classes
    if labels.ndim == 2 + weighted and labels.shape[1] != len(guide.unet.config.channel_mult):
        raise ValueError("guide: it has another number of resolutions, so labels cannot differ from depth to depth")
    takes = classes + (guide.unet.null_label is not None)
    if (weighted and labels.shape[-1] != takes) or (not weighted and int(labels.max()) >= takes):
        raise ValueError("guide: of it and the model only one has a null class; ask for plain classes")


def _load_unet(folder: Path, options: dict[str, Any]) -> ModelMixin:
    model = importlib.import_module("ddpm.models.unet").UNet
    try:
        unet, info = model.from_pretrained(
            folder, subfolder="unet", use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as problem:        # damaged files fail in as many ways as there are bytes
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ValueError(f"{folder / 'unet'}: cannot be loaded: {reason[:200]}") from problem
    if info["missing_keys"]:
        raise ValueError(f"{folder / 'unet'}: the weights are not whole, {info['missing_keys'][0]} is missing")
    return unet


def _as(output_type: str, images: Tensor) -> Any:
    if output_type == "uint8":
        return images
    if output_type == "pt":
        return images.float() / 255
    channels_last = images.permute(0, 2, 3, 1).numpy()                                                  # (N, H, W, C)
    if output_type == "np":
        return channels_last.astype("float32") / 255
    return [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image) for image in channels_last]


def _source(part: Any, title: str) -> str:
    """Source of the class of a part, as one file that needs no package."""
    kind = type(part)
    if kind.__module__.startswith("diffusers_modules."):         # loaded from such a file
        return Path(inspect.getsourcefile(kind)).read_text()
    version = importlib.import_module("ddpm").__version__
    return importlib.import_module("ddpm.single_file").bundle(kind.__module__, title, version)


def _read_index(folder: Path, expected: str) -> dict:
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(f"{folder}: has no model_index.json, so it is no pipeline")
    try:
        index = json.loads(file.read_text())
        kind = index["_class_name"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{file}: cannot be read") from None
    kind = kind[-1] if isinstance(kind, list) else kind
    if kind != expected:
        raise ValueError(f"{folder}: holds a {kind}, not a {expected}")
    return index


def _require(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise ValueError(f"{folder}: the pipeline is not whole, {pattern.replace('*', '')} is missing")
