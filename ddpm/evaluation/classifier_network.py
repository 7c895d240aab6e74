"""The network of the reference classifier; it computes class logits and features of an image."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 32, 64, 96)       # channels of the stem and the stages; their sum is the number of features
CHANNELS_PER_GROUP = 8
STEM_SIZE = 16                  # pixels; the stem reduces images to at least this size and less than twice this size
NETWORK_RECIPE = f"{WIDTHS} {CHANNELS_PER_GROUP} {STEM_SIZE}"        # changes with the trained weights


class ResidualStage(nn.Module):
    """Two convolutions and a skip connection; every stage but the first halves the resolution."""

    def __init__(self, in_channels: int, out_channels: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(out_channels // CHANNELS_PER_GROUP, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(out_channels // CHANNELS_PER_GROUP, out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        if self.halve:
            h = F.max_pool2d(h, 2, ceil_mode=True)                                      # (B, C, H/2, W/2)
        inner = self.conv2(F.relu(self.norm1(self.conv1(h))))
        return F.relu(self.skip(h) + self.norm2(inner))                                 # (B, C', H/2, W/2)


class ClassifierNetwork(nn.Module):
    """A stem and three stages. Logits are computed from the channel means of the last stage.

    Features are the channel means of all stages.

    Means of early activations are sensitive to blur and noise, to which a classifier learns to be invariant. The stem
    has no norm, so contrast and brightness matter as well. The features of each depth are divided by their root mean
    variance over real images; without this scaling, those of the last stage would dominate all distances.

    Attributes:
        mean: (C, 1, 1), of each channel over the training images.
        deviation: (C, 1, 1), standard deviations of the channels.
        spread: (4,), root mean variance of the features of each depth.
    """

    mean: Tensor
    deviation: Tensor
    spread: Tensor

    def __init__(self, channels: int, resolution: int, classes: int) -> None:
        super().__init__()
        stride = max(1, resolution // STEM_SIZE)
        kernel = 3 if stride == 1 else 2 * stride
        self.register_buffer("mean", torch.empty(channels, 1, 1))
        self.register_buffer("deviation", torch.empty(channels, 1, 1))
        self.register_buffer("spread", torch.empty(len(WIDTHS)))
        self.stem = nn.Conv2d(channels, WIDTHS[0], kernel, stride, padding=(kernel - stride + 1) // 2)
        sizes = enumerate(pairwise(WIDTHS))
        self.stages = nn.ModuleList(ResidualStage(before, after, halve=index > 0) for index, (before, after) in sizes)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, K) of uint8 images (B, C, H, W)."""
        h = (images.float() - self.mean) / self.deviation
        h = F.relu(self.stem(h))
        means = [h.mean(dim=(2, 3))]
        for stage in self.stages:
            h = stage(h)
            means.append(h.mean(dim=(2, 3)))
        scaled = [mean / spread for mean, spread in zip(means, self.spread, strict=True)]
        return torch.cat(scaled, dim=1), self.head(means[-1])


def untrained_classifier(channels: int, resolution: int, classes: int, draws: torch.Generator) -> ClassifierNetwork:
    """Build a network whose convolutions are initialized from `draws` and whose logits are 0."""
    with torch.random.fork_rng(devices=[]):     # leaves torch's global generator untouched
        network = ClassifierNetwork(channels, resolution, classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=draws)
    for name in ("stem.bias", "head.weight", "head.bias"):
        nn.init.zeros_(network.get_parameter(name))
    return network
