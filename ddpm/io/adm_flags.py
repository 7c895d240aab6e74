"""The options of OpenAI's training scripts, and their values for the released models."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ddpm.config.values import convert_mapping, field_types

_CHANNEL_MULT = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4", 32: "1,2,2,2"}
_WITHOUT_EFFECT = (     # flags for training, precision and sampling
    "timestep_respacing",
    "use_checkpoint",
    "use_fp16",
    "use_kl",
    "rescale_learned_sigmas",
    "sigma_small",
)
_LISTS = {"attention_resolutions": int, "channel_mult": float}     # flags of numbers separated by commas


@dataclass(frozen=True)
class Flags:
    """Options of the reference's scripts that describe a model, under their original names.

    Args:
        image_size: H = W in pixels.
        num_channels: the base width.
        num_res_blocks: residual blocks per level.
        num_heads: of each attention layer; used if num_head_channels is -1.
        num_heads_upsample: the same in the decoder; -1 means num_heads.
        num_head_channels: channels per head.
        attention_resolutions: in pixels, as `32,16,8`.
        channel_mult: width factor of each level, as `1,2,3,4`; if empty, the reference's default for the image size.
        dropout: probability in the residual blocks.
        class_cond: whether the model is class-conditional; the file contains the number of classes.
        use_scale_shift_norm: AdaGN, otherwise additive conditioning.
        resblock_updown: whether residual blocks change the resolution, otherwise convolutions.
        use_new_attention_order: whether rows of qkv are (q k v, head, channel), otherwise (head, q k v, channel).
        learn_sigma: whether the network also predicts a variance.
        diffusion_steps: T.
        noise_schedule: linear or cosine.
        predict_xstart: whether the network predicts x_0, otherwise the noise.
        rescale_timesteps: whether the network's input is t 1000 / T instead of t; None if unknown.

    Raises:
        ValueError: for flags that this U-Net does not support, or that are ambiguous.
    """

    image_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    attention_resolutions: str = "16,8"
    channel_mult: str = ""
    dropout: float = 0.0
    class_cond: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    diffusion_steps: int = 1000
    noise_schedule: Literal["linear", "cosine"] = "linear"
    predict_xstart: bool = False
    rescale_timesteps: bool | None = None

    def __post_init__(self) -> None:
        if self.num_head_channels == -1 and self.num_heads_upsample not in (-1, self.num_heads):
            raise ValueError(
                f"num_heads_upsample: {self.num_heads_upsample} is not supported; allowed is num_heads, "
                f"{self.num_heads}: this U-Net has equally many heads in encoder and decoder"
            )
        if self.diffusion_steps != 1000 and self.rescale_timesteps is not False:
            defaults = "is required, because improved-diffusion and guided-diffusion have different defaults"
            raise ValueError(
                f"rescale_timesteps: {'true is not supported' if self.rescale_timesteps else defaults}; allowed with "
                f"diffusion_steps {self.diffusion_steps}: false, because this U-Net gets t, not the rescaled t"
            )
        if not self.channel_mult and self.image_size not in _CHANNEL_MULT:
            known = ", ".join(map(str, sorted(_CHANNEL_MULT)))
            raise ValueError(f"channel_mult: required, such as 1,2,4; only image_size {known} have a default")
        for name in _LISTS:
            _numbers(name, getattr(self, name))

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Flags":
        """Build flags from names and values; missing ones have guided-diffusion's default.

        Args:
            given: values as on the reference's command line; lists of numbers may also be lists. Flags that do not
                affect what the model computes are ignored.

        Raises:
            ValueError: for an unknown name (the closest is suggested) or a value of another type.
        """
        flags = {name: value for name, value in given.items() if name not in _WITHOUT_EFFECT}
        for name in _LISTS.keys() & flags.keys():
            value = flags[name]
            flags[name] = ",".join(map(str, value if isinstance(value, list | tuple) else [value]))
        return cls(**convert_mapping(flags, field_types(cls)))

    @property
    def prediction(self) -> str:
        """The prediction type, an entry of `ddpm.diffusion.objective.PREDICTIONS`."""
        return "x_0" if self.predict_xstart else "eps"

    def architecture(self) -> dict[str, Any]:
        """Return the arguments of `build_on_meta_device` that the weights do not determine."""
        equal = ("image_size", "num_res_blocks", "dropout", "num_heads", "num_head_channels")
        attention = _numbers("attention_resolutions", self.attention_resolutions)
        return {name: getattr(self, name) for name in (*equal, "use_scale_shift_norm", "resblock_updown")} | {
            "model_channels": self.num_channels,
            "attention_resolutions": [self.image_size // pixels for pixels in attention],
            "channel_mult": _numbers("channel_mult", self.channel_mult or _CHANNEL_MULT[self.image_size]),
        }


def _numbers(name: str, text: str) -> list[int | float]:
    try:
        values = [_LISTS[name](number) for number in text.split(",") if text]
    except ValueError:
        values = [0]
    if not all(0 < value < 10_000 for value in values):
        raise ValueError(f"{name}: {text!r} is out of range; allowed: numbers above 0, such as 16 or 1,2,4")
    return [int(value) if value == int(value) else value for value in values]


_IMAGENET = Flags(
    image_size=256, num_channels=256, num_res_blocks=2, num_head_channels=64, attention_resolutions="32,16,8",
    class_cond=True, resblock_updown=True, learn_sigma=True,
)
_IMPROVED = Flags(learn_sigma=True, rescale_timesteps=False)

# The released models that this U-Net reproduces exactly. The other models of improved-diffusion have T = 4000 and the
# input t / 4.
PRESETS = {
    "imagenet64": replace(
        _IMAGENET, image_size=64, num_channels=192, num_res_blocks=3, dropout=0.1, use_new_attention_order=True,
        noise_schedule="cosine",
    ),
    "imagenet128": replace(_IMAGENET, image_size=128, num_head_channels=-1, num_heads=4),
    "imagenet256": _IMAGENET,
    "imagenet256_uncond": replace(_IMAGENET, class_cond=False),
    "imagenet512": replace(_IMAGENET, image_size=512),
    "lsun256": replace(_IMAGENET, class_cond=False, dropout=0.1),                   # bedroom, cat, horse
    "improved_imagenet64": replace(
        _IMPROVED, image_size=64, num_channels=192, num_res_blocks=3, class_cond=True, diffusion_steps=4000,
        noise_schedule="cosine",
    ),
    "improved_lsun256": replace(                                                    # bedroom
        _IMPROVED, image_size=256, num_channels=128, num_res_blocks=2, num_heads=1, use_scale_shift_norm=False,
        attention_resolutions="16",
    ),
}
