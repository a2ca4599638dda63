"""`bibwatch plugins`: what other distributions provide, whether it is allowed, and what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_config

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("plugins", short_help="List the installed plugins and their problems.")
@as_json
@for_config
def command(*, settings: Settings, as_json: bool) -> None:
    """List the installed plugins: what each provides, and whether it can be used.

    A plugin that the configuration does not allow is listed but not imported.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from bibwatch.plugins import OWN, allow_hint

    registry = settings.registry()
    problems = registry.plugins.problems()
    rows = [
        {
            "plugin": plugin.distribution,
            "version": plugin.version,
            "group": plugin.group,
            "name": plugin.name,
            "allowed": plugin.allowed,
            "problem": problems.get(plugin),
        }
        for plugin in registry.plugins.all
        if plugin.distribution != OWN or plugin in problems
    ]
    rows += [
        {"plugin": name, "version": None, "group": None, "name": None, "allowed": True, "problem": "is not installed"}
        for name in registry.plugins.missing()
    ]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    if not rows:
        click.echo("no plugins installed")
        return
    table = Table("plugin", "version", "provides", "name", "state", box=box.SIMPLE_HEAD)
    for row in rows:
        state = "not allowed" if not row["allowed"] else "broken" if row["problem"] else "in use"
        table.add_row(*(escape(str(row[key] or "")) for key in ("plugin", "version", "group", "name")), state)
    console = Console()
    console.print(table)
    lines = [
        f"{name} is not allowed and was not imported; {allow_hint(name)}" for name in registry.plugins.disallowed()
    ]
    lines += [f"{row['plugin']}: {row['problem']}" for row in rows if row["allowed"] and row["problem"]]
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)
