"""Draw images of chosen classes from a trained model: `python scripts/sample.py --help`."""

from ddpm.cli.sample import main

if __name__ == "__main__":
    main()
