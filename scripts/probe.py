"""Show how the modulation of a trained model behaves: `python scripts/probe.py --help`."""

from ddpm.cli.probe import main

if __name__ == "__main__":
    main()
