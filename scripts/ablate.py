"""Run a study, arms x seeds, and report its result: `python scripts/ablate.py --help`."""

from ddpm.cli.ablate import main

if __name__ == "__main__":
    main()
