"""`headway completion`: the script a shell needs to complete headway's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from headway.cli.common import examples


@click.command(
    epilog=examples(
        'eval "$(headway completion bash)"    in ~/.bashrc',
        'eval "$(headway completion zsh)"     in ~/.zshrc',
        "headway completion fish > ~/.config/fish/completions/headway.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that lets a shell complete headway's words."""
    from headway.cli.app import app

    completion = get_completion_class(shell)
    assert completion is not None  # the choice above lists click's own shells
    click.echo(completion(app, {}, "headway", "_HEADWAY_COMPLETE").source())
