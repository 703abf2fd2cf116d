"""What an execution engine reports."""

from __future__ import annotations

from typing import Annotated

import typer

from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(executed)


def executed(
    target: Annotated[str, typer.Argument(metavar="ID@VERSION", show_default=False)],
    success: Annotated[bool, typer.Option("--success/--failure", show_default=False)],
    duration_ms: Annotated[int, typer.Option("--duration-ms", min=0, help="Milliseconds.")] = 0,
    execution_id: Annotated[
        str | None, typer.Option("--execution-id", help="Counts once; else one is made.")
    ] = None,
    error: Annotated[
        str | None, typer.Option("--error", help="Why it failed; kept here, never sent.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Report that a version was run, and how that went.

    Three failures in a row mark it as broken; the next success clears that.
    """
    from core.models import Ref
    from tasks import jobs

    with open_service() as service:
        report = service.executions.report(
            Ref.parse(target),
            success=success,
            duration_ms=duration_ms,
            execution_id=execution_id,
            error=error,
        )
        body = jobs.executed(service, report)
    if as_json:
        output.print_json(body)
        return
    totals = report.recorded.totals
    output.say(
        f"{report.ref} {report.recorded.health}: {totals.execution_count} executions,"
        f" {totals.success_count} of them well"
    )
    if not report.recorded.is_new:
        output.note(f"counted before: {report.execution_id}")
