"""Convert models between this package and other code bases: `python scripts/convert.py --help`."""

from ddpm.cli.convert import main

if __name__ == "__main__":
    main()
