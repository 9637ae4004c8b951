"""The tree of commands; a command's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from headway import __version__
from headway.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(click.Group):
    """A group that knows where its commands are and imports each on demand.

    Args:
        at: module and attribute of each command, `module:attribute`, in the order the help lists them.
        settings: what `click.Group` takes.
    """

    def __init__(self, *, at: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._at = at

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click gives it
        """Return the commands' names, in the order of the help."""
        return list(self._at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click gives it
        """Import one command; None where there is none of that name."""
        if cmd_name not in self._at:
            return None
        module, attribute = self._at[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command the first word names.

        Raises:
            click.UsageError: there is none (the nearest is named).
        """
        if args and not args[0].startswith("-") and args[0] not in self._at:
            ctx.fail(f"No such command {args[0]!r}; {nearest(args[0], self._at)}")
        return super().resolve_command(ctx, args)


def group(name: str, summary: str, *commands: str) -> LazyGroup:
    """Return a group whose commands stand in the module named like it: `catalog list` is `catalog:list_command`."""
    at = {command: f"headway.cli.{name}:{command}_command" for command in commands}
    return LazyGroup(name=name, at=at, help=summary, no_args_is_help=True)


#: Groups of commands; each is light, its commands are imported on demand.
workload = group("workload", "Describe a trace, or make one.", "describe", "synthesize")
catalog = group("catalog", "Look up accelerators, models, engines, links, prices and profiles.", "list", "show")
scenario = group("scenario", "Check a scenario file, or start one.", "check", "new")
calibrate = group("calibrate", "Measure what the model is calibrated with.", "endpoint", "fit", "ops")

app = LazyGroup(
    name="headway",
    at={
        "plan": "headway.cli.plan:command",
        "simulate": "headway.cli.simulate:command",
        "replay": "headway.cli.replay:command",
        "estimate": "headway.cli.estimate:command",
        "price": "headway.cli.price:command",
        "validate": "headway.cli.validate:command",
        "calibrate": "headway.cli.app:calibrate",
        "watch": "headway.cli.watch:command",
        "workload": "headway.cli.app:workload",
        "catalog": "headway.cli.app:catalog",
        "scenario": "headway.cli.app:scenario",
        "completion": "headway.cli.completion:command",
    },
    help="""Plan, simulate and price LLM inference fleets.

    A scenario file says what is known: model, traffic, SLOs, what may be bought. Start one with
    `headway scenario new`, then `headway plan` it.
    """,
    epilog="Exit codes: 0 done · 1 internal · 2 input · 3 infeasible · 4 too little evidence · 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
app = click.version_option(__version__, prog_name="headway", message="%(prog)s %(version)s")(app)
