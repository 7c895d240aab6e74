"""Compare runs in a table and on one HTML page: `python scripts/compare.py --help`."""

from ddpm.cli.compare import main

if __name__ == "__main__":
    main()
