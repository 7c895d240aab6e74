"""Where the U-Net's layers stand."""

from torch import nn


class Level(nn.Module):
    """The layers of one resolution on one side of the U-Net.

    Args:
        depth: an entry of DEPTHS, where it is.
        size: H = W in pixels.
        conditioned: whether timestep and class reach it.
        blocks: residual blocks.
        attentions: one after each of them, or an Identity.
        cross_attentions: one after each of these, or an Identity.
        resample: the layer that leads to the next level, or none at the last.
    """

    def __init__(
        self,
        depth: str,
        size: int,
        conditioned: bool,
        blocks: list[nn.Module],
        attentions: list[nn.Module],
        cross_attentions: list[nn.Module],
        resample: list[nn.Module],
    ) -> None:
        super().__init__()
        self.depth = depth
        self.size = size
        self.conditioned = conditioned
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.cross_attentions = nn.ModuleList(cross_attentions)
        self.resample = nn.ModuleList(resample)
