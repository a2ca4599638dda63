"""`bibwatch stages`: the stages there are, and the options of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli import stage_options
from bibwatch.cli.options import as_json, for_config
from bibwatch.errors import ConfigurationError

if TYPE_CHECKING:
    from bibwatch.registry import Registry
    from bibwatch.settings import Settings


@click.command("stages", short_help="List the stages, or the options of one.")
@click.argument("name", required=False)
@as_json
@for_config
def command(*, settings: Settings, name: str | None, as_json: bool) -> None:
    """List the stages: what each does, and whether the configured preset can do it.

    With NAME, list that stage's options. Every command that has --stage takes them; in config.toml they go in
    [stages.NAME].
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    registry = settings.registry()
    if name is not None:
        name = stage_options.NameType(registry, "stage", registry.stages).convert(name, None, None)
    rows = [_row(registry, stage, settings.preset) for stage in ([name] if name else registry.stages)]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    if name is not None:
        context = click.get_current_context()
        formatter = context.make_formatter()
        formatter.write_text(f"{name}: {rows[0].get('does', '')}")
        stage_options.write_options(formatter, context, stage_options.options_of(registry, name))
        click.echo(formatter.getvalue(), nl=False)
        return
    table = Table("stage", "kind", "input", "preset", "what it does")
    for row in rows:
        table.add_row(*(escape(str(row.get(key) or "")) for key in ("stage", "kind", "works_on", "preset", "does")))
    Console().print(table)


def _row(registry: Registry, name: str, preset: str) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": name, "kind": registry.stage_table(name)["kind"]}
    try:
        options_type = registry.stage_class(name).options_type
        row |= {
            "does": (options_type.__doc__ or " ").strip().partition("\n")[0],
            "works_on": ", ".join(options_type.interpreters),
        }
        options = registry.stage_options(name, preset)
    except ConfigurationError as exc:
        return row | {"preset": None, "why_not": str(exc)}
    chosen = {"preset": options.model_options.name, "question": options.question}
    return row | chosen | {"options": options.model_dump(mode="json")}
