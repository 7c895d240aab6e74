"""Upload a trained model to the Hugging Face hub: `python scripts/push.py --help`."""

from ddpm.cli.push import main

if __name__ == "__main__":
    main()
