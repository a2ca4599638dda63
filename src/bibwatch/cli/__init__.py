"""The `bibwatch` command: one file per command, which parses, calls and prints.

Knows how an error ends a command: a line on stderr per mistake, and the error's exit code.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from bibwatch import __version__
from bibwatch.errors import BibwatchError

_COMMANDS = (
    "audit",
    "check",
    "compare",
    "config",
    "correct",
    "demo",
    "entries",
    "eval",
    "judge",
    "plugins",
    "presets",
    "read",
    "retry",
    "run",
    "stages",
    "status",
)


class _Commands(click.Group):
    """Imports a command's module only when it is needed, to keep startup fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"bibwatch.cli.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bibwatch")
def cli() -> None:
    """Watch camera folders at a finish line and record bib numbers in SQL.

    \b
    Exit codes: 0 success, 1 failure, 2 usage error, 75 another instance is running, 78 bad configuration.
    """


def main() -> None:
    """Run the command line."""
    try:
        sys.exit(cli.main(prog_name="bibwatch", standalone_mode=False) or 0)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    except BibwatchError as exc:
        for line in str(exc).splitlines():
            click.echo(f"bibwatch: {line}", err=True)
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
