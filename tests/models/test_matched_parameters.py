"""The norm `groupnorm_matched` gives the additive arm as many parameters as AdaGN has."""

from pathlib import Path

import pytest
import torch

from ddpm.models.unet import UNet

CONFIGURATIONS = {
    "digits": {
        "resolution": 8, "in_channels": 1, "out_channels": 1, "channels": 32, "channel_mult": (1, 2),
        "num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 32,
    },
    "cifar10_small": {
        "channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "attention_resolutions": (8,),
        "head_channels": 32,
    },
    "cifar10": {"channels": 128, "channel_mult": (1, 2, 2, 2), "num_res_blocks": 3, "attention_resolutions": (16, 8)},
}


def without_memory(**options: object) -> UNet:
    with torch.device("meta"):
        return UNet(**options)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_matched_parameters(configuration: str) -> None:
    shape = CONFIGURATIONS[configuration]
    adagn, plain, matched = (
        without_memory(**shape, norm=norm) for norm in ("adagn", "groupnorm", "groupnorm_matched")
    )
    target = adagn.num_parameters()
    assert plain.num_parameters() < 0.95 * target
    assert abs(matched.num_parameters() - target) <= 1e-3 * target
    D = matched.class_embed.embedding_dim
    for other in (D - 1, D + 1):
        neighbor = without_memory(**shape, norm="groupnorm", emb_channels=other)
        assert abs(neighbor.num_parameters() - target) > abs(matched.num_parameters() - target)
    convolutions = {name: p.shape for name, p in plain.named_parameters() if p.ndim == 4}
    assert convolutions == {name: p.shape for name, p in matched.named_parameters() if p.ndim == 4}


def test_matched_parameters_with_class_tokens() -> None:
    """The tokens need a width that is divisible by 4, so there are fewer widths to choose from."""
    shape = CONFIGURATIONS["cifar10_small"] | {"conditioning": "cross_attention"}
    matched = without_memory(**shape, norm="groupnorm_matched")
    target = without_memory(**shape, norm="adagn").num_parameters()
    assert matched.class_embed.embedding_dim % 4 == 0
    assert abs(matched.num_parameters() - target) <= 1e-3 * target


def test_a_saved_width_is_not_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is part of the model: another way to find it would not fit its weights."""
    saved = UNet(**CONFIGURATIONS["digits"], norm="groupnorm_matched")
    saved.save_pretrained(tmp_path)
    monkeypatch.setattr("ddpm.models.unet.matched_width", None)
    again = UNet.from_pretrained(tmp_path)
    assert again.config.emb_channels == saved.config.emb_channels == saved.class_embed.embedding_dim
