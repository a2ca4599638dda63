"""`bibwatch presets`: the models to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_config
from bibwatch.errors import ConfigurationError, one_line
from bibwatch.messages import alike

if TYPE_CHECKING:
    from bibwatch.registry import Registry
    from bibwatch.settings import Settings

_ORDER = (True, None, False)
_RUNS_HERE = {True: "[green]yes[/green]", None: "not asked"}  # other machines are not contacted before use
_MIN_WIDTH = 118  # characters; a narrower table is unreadable


@click.command("presets", short_help="List the presets and whether each can run here.")
@as_json
@for_config
def command(*, settings: Settings, as_json: bool) -> None:
    """List the presets: the default, those that can run here, then the rest.

    Presets are built in, provided by plugins, or your own in config.toml. The default is the configured `preset`.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    registry = settings.registry()
    rows = [_row(registry, name) | {"default": alike(name, settings.preset)} for name in registry.presets]
    rows.sort(key=lambda row: (not row["default"], _ORDER.index(row["runs_here"])))  # stable: else by name
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    why_not = list(dict.fromkeys(row["why_not"] for row in rows if row["runs_here"] is False))
    table = Table(
        *(Column(name, no_wrap=True) for name in ("preset", "kind", "device")),
        "licence",
        *(Column(name, no_wrap=True, justify="right") for name in ("GB", "memory")),
        Column("runs here", no_wrap=True),
        box=box.SIMPLE_HEAD,
    )
    for row in rows:
        here = _RUNS_HERE.get(row["runs_here"]) or f"no ({why_not.index(row['why_not']) + 1})"
        facts = (row.get(key) for key in ("kind", "device", "licence", "download_gb", "memory_gb"))
        table.add_row(row["name"] + " (default)" * row["default"], *(escape(_text(fact)) for fact in facts), here)
    console = Console()
    console.width = max(console.width, _MIN_WIDTH)
    console.print(table)
    for number, reason in enumerate(why_not, 1):
        console.print(f"({number}) {escape(reason)}", soft_wrap=True, highlight=False)


def _row(registry: Registry, name: str) -> dict[str, Any]:
    try:
        options = registry.model_options(name)
    except ConfigurationError as exc:  # one broken preset must not hide the others
        return {"name": name, "runs_here": False, "why_not": str(exc)}
    try:
        why_not = options.obstacle()
    except Exception as exc:  # noqa: BLE001  # a plugin's
        why_not = f"check failed: {type(exc).__name__}: {one_line(exc)}"
    facts = {"model": options.model, "device": options.place, "output_kind": options.output_kind}
    runs_here = None if options.is_on_another_machine and not why_not else why_not is None
    return options.model_dump(mode="json") | facts | {"runs_here": runs_here, "why_not": why_not}


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
