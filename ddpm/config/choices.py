"""The named choices of the options. A test compares each with the dict of variants that it selects from."""

from typing import Literal

BadImagePolicy = Literal["error", "skip"]

NormName = Literal[
    "adagn", "groupnorm", "groupnorm_matched", "adain", "adaln", "adarms", "adagn_scale", "adagn_shift"
]
ConditioningName = Literal["both", "timestep", "class", "none", "cross_attention"]
DepthName = Literal["all", "encoder", "middle", "decoder"]
ResampleName = Literal["resblock", "conv"]

ScheduleName = Literal["linear", "cosine", "sigmoid"]
PredictionName = Literal["eps", "v", "x_0"]
WeightingName = Literal["uniform", "min_snr"]
TimestepSamplerName = Literal["uniform", "low_discrepancy"]

LearningRateDecay = Literal["cosine", "constant"]
PrecisionName = Literal["fp32", "bf16", "fp16"]
WandbMode = Literal["off", "offline", "online"]

SamplerName = Literal["ddim", "ddpm", "dpmpp", "unipc", "euler", "heun"]
SpacingName = Literal["trailing", "leading", "linspace", "logsnr", "karras"]
MonitoredMetric = Literal["frechet_distance", "kernel_distance", "accuracy"]

ConversionTarget = Literal["ddpm", "diffusers"]
PresetName = Literal[
    "imagenet64",
    "imagenet128",
    "imagenet256",
    "imagenet256_uncond",
    "imagenet512",
    "lsun256",
    "improved_imagenet64",
    "improved_lsun256",
]
