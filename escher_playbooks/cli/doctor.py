"""`doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from escher_playbooks.cli import options, output

if TYPE_CHECKING:
    from core.settings import Settings
    from escher_playbooks.cli.checks import Finding


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(doctor)


def doctor(as_json: options.Json = False) -> None:
    """Check the machine, the home and the server; exit 1 when something is to be mended."""
    from core.settings import load_settings

    settings = load_settings()
    findings = list(examine(settings))
    all_well = all(finding.ok for finding in findings)
    if as_json:
        output.print_json({"ok": all_well, "checks": [_as_json(finding) for finding in findings]})
    else:
        for finding in findings:
            output.say(f"{'✓' if finding.ok else '✗'} {finding.name}: {finding.detail}")
            if finding.remedy:
                output.say(f"  {finding.remedy}")
    if not all_well:
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, in the order in which things depend on each other."""
    from escher_playbooks.cli import checks, checks_network

    everything: list[Callable[[Settings], Iterator[Finding]]] = [
        checks.python_version,
        checks.setting_files,
        checks.home,
        checks.modes,
        checks.links,
        checks.disk_space,
        checks.encryption_key,
        checks.secret_files,
        checks.journal,
        checks.server_changes,
        checks.embedding_model,
        checks.collection,
        checks_network.qdrant,
        checks_network.broker,
        checks_network.listening_ports,
        checks_network.server,
    ]
    for check in everything:
        yield from _run(check, settings)


def _run(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    from core.errors import EscherError
    from escher_playbooks.cli.checks import Finding

    name = check.__name__.replace("_", " ")
    try:
        yield from check(settings)
    except EscherError as error:
        yield Finding.from_error(name, error)
    except OSError as error:
        yield Finding(name, False, f"{error.filename}: {error.strerror}", "Check owner and mode.")


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "ok": finding.ok,
        "detail": finding.detail,
        "remedy": finding.remedy,
    }
