"""Measure speed and memory against diffusers' UNet2DModel: `python scripts/benchmark.py --help`."""

from ddpm.cli.benchmark import main

if __name__ == "__main__":
    main()
