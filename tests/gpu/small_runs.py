"""The device of the tests of this folder, and options of scripts/train.py for a small model."""

DEVICE = "cuda"
SMALL = ("--model.channels", "16", "--model.head_channels", "16", "--tracking.wandb", "off")
