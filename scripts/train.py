"""Train a class-conditional diffusion model: `python scripts/train.py --help`."""

from ddpm.cli.train import main

if __name__ == "__main__":
    main()
