"""What is set, and by whom."""

from __future__ import annotations

from pathlib import Path

import typer

from escher_playbooks.cli import options, output


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(config)


def config(as_json: options.Json = False) -> None:
    """Every setting and where it came from; secrets are masked."""
    from core.settings import load_settings
    from escher_playbooks.cli.setting_sources import describe, ignored_dotenv

    settings = load_settings()
    shown = describe(settings)
    if as_json:
        notes = ignored_dotenv(Path(), settings.home)  # else the command has said so
        listed = {item.name: item.as_json() for item in shown}
        output.print_json({"settings": listed, "notes": notes})
        return
    output.table(
        ("SETTING", "VALUE", "FROM"),
        ((item.name, "" if item.value is None else item.value, item.source) for item in shown),
        whole=2,
    )
