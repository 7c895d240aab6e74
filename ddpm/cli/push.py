"""Upload a trained model to the Hugging Face hub."""

from ddpm.cli.parser import from_command_line
from ddpm.config.commands import PushCommand


@from_command_line(PushCommand)
def main(command: PushCommand) -> None:
    """Run the command."""
    from ddpm.io.hub import push  # imported only now, so that --help is fast

    push(command.model, command.to, command.license, command.private, command.dry_run)
