"""The projection of augmentation labels in the U-Net."""

import inspect
from pathlib import Path

import pytest
import torch

from ddpm.models.norm import NORMS
from ddpm.models.unet import UNet

SHAPE = {
    "resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 3, "channels": 16, "channel_mult": (1, 2),
    "num_res_blocks": 1, "attention_resolutions": (4,), "head_channels": 16,
}
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T, K = torch.tensor([0, 900]), torch.tensor([1, 3])


def random_unet(**options) -> UNet:
    """Return a U-Net whose outputs depend on all of its inputs."""
    unet = UNet(**{**SHAPE, **options}).eval()
    draws = torch.Generator().manual_seed(1)
    for parameter in unet.parameters():
        parameter.data.normal_(std=0.1, generator=draws)
    return unet


@pytest.mark.parametrize("norm", NORMS)
def test_all_other_tensors_are_those_of_the_model_without_it(norm: str) -> None:
    """Also the width that `groupnorm_matched` finds, whose search counts parameters."""
    plain, augmented = UNet(**SHAPE, norm=norm), UNet(**SHAPE, norm=norm, augment_channels=5)
    weights = augmented.state_dict()
    assert weights.pop("augment_embed.weight").shape == (plain.class_embed.embedding_dim, 5)
    assert weights.keys() == plain.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
    assert augmented.config.emb_channels == plain.config.emb_channels


@pytest.mark.parametrize("conditioning", ["both", "none", "cross_attention"])
@pytest.mark.parametrize("condition_at", ["all", "middle"])
def test_the_label_zero_adds_nothing(conditioning: str, condition_at: str) -> None:
    unet = random_unet(conditioning=conditioning, condition_at=condition_at, augment_channels=5)
    with torch.no_grad():
        plain = unet(X, T, K).sample
        assert torch.equal(unet(X, T, K, augment_labels=torch.zeros(2, 5)).sample, plain)
        one = torch.tensor([[0.0] * 5, [0, 1, 0, 0, 0]])
        other = unet(X, T, K, augment_labels=one).sample
    assert torch.equal(other[0], plain[0]) and not torch.allclose(other[1], plain[1])


def test_the_label_is_added_to_the_embedding_of_every_resolution() -> None:
    unet = random_unet(augment_channels=2)
    label = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    with torch.no_grad():
        per_resolution = unet(X, T, K[:, None].expand(2, 2), augment_labels=label).sample
        torch.testing.assert_close(per_resolution, unet(X, T, K, augment_labels=label).sample)
        # The same as class embeddings with the projections added.
        embedding = unet.time_embed(T) + unet.class_embed(K) + label @ unet.augment_embed.weight.T
        for stage in unet.embeddings(T, K, label).values():
            torch.testing.assert_close(stage.for_norms, torch.nn.functional.silu(embedding))
            assert torch.equal(stage.for_cross_attention, unet.class_embed(K))


@pytest.mark.parametrize("options", [
    {}, {"norm": "groupnorm_matched"}, {"conditioning": "cross_attention"}, {"num_classes": 0}, {"emb_channels": 20},
])
def test_the_model_without_augmentation_shares_the_layers(options: dict, tmp_path: Path) -> None:
    unet = random_unet(**options, augment_channels=4)
    without = unet.without_augmentation()
    assert without.without_augmentation() is without and not without.training
    assert without.config.augment_channels == 0 and unet.config.augment_channels == 4
    expected = {name: p for name, p in unet.named_parameters() if name != "augment_embed.weight"}
    assert {name: p.data_ptr() for name, p in without.named_parameters()} == {
        name: p.data_ptr() for name, p in expected.items()
    }
    labels = torch.zeros_like(K) if options.get("num_classes") == 0 else K
    with torch.no_grad():
        assert torch.equal(without(X, T, labels).sample, unet(X, T, labels, augment_labels=torch.zeros(2, 4)).sample)
        unet.conv_out.bias += 1         # as an update of the average does
        assert torch.equal(without(X, T, labels).sample, unet(X, T, labels).sample)
        without.save_pretrained(tmp_path)
        loaded = UNet.from_pretrained(tmp_path)
        assert loaded.config.augment_channels == 0
        assert torch.equal(loaded(X, T, labels).sample, without(X, T, labels).sample)
    assert random_unet(**options).train().without_augmentation().training


def test_wrong_labels_are_refused(refused) -> None:
    with refused("augment_labels", "augment_channels"):
        UNet(**SHAPE)(X, T, K, augment_labels=torch.zeros(2, 3))
    unet = UNet(**SHAPE, augment_channels=3)
    for wrong in (torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 1, 3)):
        with refused("augment_labels", "(B, 3)"):
            unet(X, T, K, augment_labels=wrong)


def test_the_signature_begins_as_in_diffusers() -> None:
    names = [*inspect.signature(UNet.forward).parameters]
    assert names == ["self", "sample", "timestep", "class_labels", "return_dict", "augment_labels"]


def test_gradient_checkpointing_passes_the_label_on() -> None:
    unet, label = random_unet(augment_channels=2).train(), torch.tensor([[1.0, 0], [0, 1]])
    unet(X, T, K, augment_labels=label).sample.square().sum().backward()
    expected = unet.augment_embed.weight.grad.clone()
    unet.zero_grad()
    unet.enable_gradient_checkpointing()
    unet(X, T, K, augment_labels=label).sample.square().sum().backward()
    torch.testing.assert_close(unet.augment_embed.weight.grad, expected)
