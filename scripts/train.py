"""Train a class-conditional diffusion model: `python scripts/train.py --help`."""

from ddpm.cli.command_lines import parse_train
from ddpm.cli.errors import one_line_errors


def main() -> None:
    with one_line_errors():
        command = parse_train()
        from ddpm.training.train import train  # after the options are read: importing takes seconds

        train(command.config, command.run, dry_run=command.dry_run)


if __name__ == "__main__":
    main()
