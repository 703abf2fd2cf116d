"""The cache of downloaded scripts: look at it, keep it small, empty it."""

from __future__ import annotations

from typing import Annotated

import typer

from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service

MEBIBYTE = 1 << 20
cache_app = typer.Typer(help="The cache of downloaded scripts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(cache_app, name="cache")


@cache_app.command("ls")
def list_cache(
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The latest used.")] = None,
    as_json: options.Json = False,
) -> None:
    """What is in the cache, the latest used first, and how well it serves."""
    with open_service() as service:
        body = service.script_manager.usage(limit=limit)
    if as_json:
        output.print_json(body)
        return
    output.table(
        ("PLAYBOOK", "FORMAT", "BYTES", "LAST USED", "FRESH UNTIL"),
        (
            (
                f"{entry['playbook_id']}@{entry['version']}",
                entry["format"],
                entry["size_bytes"],
                output.moment(int(entry["last_used"])),
                output.moment(int(entry["expires_at"])),
            )
            for entry in body["entries"]
        ),
    )
    output.say(
        f"{body['used_bytes'] / MEBIBYTE:.1f} of {body['max_bytes'] / MEBIBYTE:.0f} MiB, "
        f"{body['entry_count']} entries, {body['hits']} hits, {body['misses']} misses"
    )


@cache_app.command()
def evict(as_json: options.Json = False) -> None:
    """Let go of what is older than the TTL or over the limit."""
    with open_service() as service:
        report = service.script_manager.evict()
    _print(report.as_json(), as_json=as_json)


@cache_app.command()
def clear(as_json: options.Json = False) -> None:
    """Let go of everything that is not in use."""
    with open_service() as service:
        report = service.script_manager.clear_cache()
    _print(report.as_json(), as_json=as_json)


def _print(report: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        output.print_json(report)
        return
    output.say(f"{report['entries']} entries evicted, {report['bytes_freed']} bytes freed")
    if report.get("in_use"):
        output.note(
            f"{report['in_use']} entries are in use and stay; they go when their leases end"
        )
