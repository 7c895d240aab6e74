"""From the configuration to the things that it names. Unknown names and numbers that do not fit are refused here."""

from ddpm.config import Config
from ddpm.data import ImageData, load_data
from ddpm.models.norm import NORMS
from ddpm.models.unet import RESAMPLERS, UNet
from ddpm.names import lookup
from ddpm.objective import PREDICTIONS, TIMESTEP_SAMPLERS, WEIGHTINGS
from ddpm.sampling.images import timestep_grid
from ddpm.sampling.samplers import SAMPLERS
from ddpm.schedule import SCHEDULES, NoiseSchedule, with_zero_terminal_snr


def build_data(config: Config) -> ImageData:
    """The configured images."""
    data = config.data
    return load_data(
        data.source,
        data.resolution,
        split=data.split,
        image_column=data.image_column,
        label_column=data.label_column,
        channels=data.channels,
        on_bad_image=data.on_bad_image,
        memory_gb=data.memory_gb,
    )


def check_names(config: Config) -> None:
    """Refuses unknown names, and sampling settings that do not fit, before anything takes time.

    Raises:
        ValueError: names the option and the nearest entry.
    """
    diffusion, sample = config.diffusion, config.sample
    lookup(NORMS, config.model.norm, "model.norm")
    lookup(dict.fromkeys(RESAMPLERS), config.model.resample, "model.resample")
    lookup(SCHEDULES, diffusion.schedule, "diffusion.schedule")
    lookup(PREDICTIONS, diffusion.prediction, "diffusion.prediction")
    lookup(WEIGHTINGS, diffusion.weighting, "diffusion.weighting")
    lookup(TIMESTEP_SAMPLERS, diffusion.timestep_sampler, "diffusion.timestep_sampler")
    lookup(SAMPLERS, sample.sampler, "sample.sampler")
    timestep_grid(diffusion.num_timesteps, sample.steps, sample.spacing)
    if sample.guidance != 1 and diffusion.label_dropout == 0:
        raise ValueError("sample.guidance: only 1 is possible where diffusion.label_dropout is 0; raise that to 0.1")


def build_schedule(config: Config) -> NoiseSchedule:
    """The configured forward process."""
    diffusion = config.diffusion
    betas = SCHEDULES[diffusion.schedule](diffusion.num_timesteps)
    return NoiseSchedule(with_zero_terminal_snr(betas) if diffusion.zero_terminal_snr else betas)


def build_unet(config: Config, data: ImageData) -> UNet:
    """The configured model for the data's channels, resolution and classes.

    Raises:
        ValueError: if they do not fit together.
    """
    model = config.model
    return UNet(
        resolution=data.resolution,
        in_channels=data.channels,
        out_channels=data.channels * (1 + config.diffusion.learned_variance),
        num_classes=data.num_classes,
        null_class=config.diffusion.label_dropout > 0,
        channels=model.channels,
        channel_mult=tuple(model.channel_mult),
        num_res_blocks=model.num_res_blocks,
        attention_resolutions=tuple(model.attention_resolutions),
        head_channels=model.head_channels,
        norm=model.norm,
        norm_groups=model.norm_groups,
        dropout=model.dropout,
        resample=model.resample,
        seed=config.train.seed,
    )
