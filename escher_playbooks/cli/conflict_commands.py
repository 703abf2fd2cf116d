"""Conflicts with the server: list them, settle them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service

if TYPE_CHECKING:
    from core.journal.conflicts import ConflictRecord
    from core.service import PlaybookService

conflicts_app = typer.Typer(
    help="What was set aside, or waits for your decision.", invoke_without_command=True
)


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(conflicts_app, name="conflicts")


@conflicts_app.callback()
def list_conflicts(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what was settled and left no copy.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """What was set aside, or waits for your decision (see `conflicts resolve`)."""
    if context.invoked_subcommand is not None:
        return
    with open_service() as service:
        found = service.journal.conflicts.entries(everything=everything)
    if as_json:
        output.print_json({"items": [item.as_json() for item in found]})
        return
    if not found:
        output.say("no conflicts")
        return
    output.table(
        ("PLAYBOOK", "STATE", "SINCE", "WHAT"),
        ((item.ref, item.state, output.moment(item.created_at), _what(item)) for item in found),
    )


@conflicts_app.command()
def resolve(
    target: Annotated[str, typer.Argument(metavar="ID@VERSION", show_default=False)],
    as_version: Annotated[
        str | None, typer.Option("--as-version", metavar="V", help="Ours becomes this version.")
    ] = None,
    rename: Annotated[
        str | None, typer.Option("--rename", metavar="ID", help="Ours becomes another playbook.")
    ] = None,
    take: Annotated[
        str | None,
        typer.Option("--take", metavar="theirs", help="Theirs; a copy of ours is kept."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take theirs without being asked.")] = False,
    as_json: options.Json = False,
) -> None:
    """Settle an open conflict by one of the three choices."""
    from core.models import Ref
    from tasks import jobs

    ref = Ref.parse(target)
    with open_service() as service:
        if take is not None and not yes:
            _ask(service, service.conflict_resolver.find(ref))
        resolution = service.resolve_conflict(ref, as_version=as_version, rename=rename, take=take)
        body = jobs.resolved(service, resolution)
    if as_json:
        output.print_json(body)
        return
    output.say(f"settled {ref}: {resolution.resolution}")
    for words in body["warnings"]:
        output.note(f"warning: {words}")
    if resolution.folder:
        output.note(f"ours is kept in {resolution.folder}")


def _ask(service: PlaybookService, conflict: ConflictRecord) -> None:
    """Where a name is to stand for other content: show both digests, go on only with a yes."""
    from core.errors import UsageError
    from core.publishing.conflict_rules import Rule

    if conflict.kind != Rule.IMMUTABLE:
        return  # the name stands for nothing yet; a copy of ours is kept
    output.note(f"{conflict.ref} here:   {service.journal.pins.get(conflict.ref)}")
    output.note(f"{conflict.ref} there:  {conflict.server_digest or 'not known'}")
    if not output.is_interactive():
        raise UsageError(
            f"Taking theirs changes what {conflict.ref} stands for, and nobody can be asked.",
            "Compare the digests, and say --yes.",
        )
    if not output.confirm("Take theirs?"):
        raise typer.Abort


def _what(item: ConflictRecord) -> str:
    return f"{item.reason} Kept in {item.folder}" if item.folder else item.reason
