"""Train a diffusion model of images with or without classes."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import TrainCommand


@from_command_line(TrainCommand)
def main(command: TrainCommand) -> None:
    """Run the command."""
    if command.print_config:
        print(command.config.to_yaml(), end="")
        return
    from ddpm.training.train import train  # imported only now, so that --help is fast

    train(command.config, command.directory, command.dry_run, command.allowed, command.continues)
