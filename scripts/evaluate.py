"""Measure the quality of a model's images, with confidence intervals: `python scripts/evaluate.py --help`."""

from ddpm.cli.evaluate import main

if __name__ == "__main__":
    main()
