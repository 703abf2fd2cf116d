"""What deletions of the other side took: list it, bring it back."""

from __future__ import annotations

from typing import Annotated

import typer

from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service

trash_app = typer.Typer(help="What deletions on the server took from here.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(trash_app, name="trash")


@trash_app.command("ls")
def list_trash(as_json: options.Json = False) -> None:
    """What is in the trash, the newest first, and until when."""
    with open_service() as service:
        days = service.settings.trash_days
        entries = [entry.as_json(days) for entry in service.trash.entries()]
    if as_json:
        output.print_json({"items": entries})
        return
    if not entries:
        output.say("the trash is empty")
        return
    output.table(
        ("PLAYBOOK", "DELETED", "KEPT UNTIL", "FOLDER"),
        (
            (
                f"{entry['playbook_id']}@{entry['version']}",
                output.moment(entry["deleted_at"]),
                output.moment(entry["kept_until"]),
                entry["folder"],
            )
            for entry in entries
        ),
    )


@trash_app.command()
def restore(
    target: Annotated[str, typer.Argument(metavar="ID@VERSION", show_default=False)],
    as_json: options.Json = False,
) -> None:
    """Bring a version back as a private one, under the next free version."""
    from core.models import Ref
    from tasks import jobs

    with open_service() as service:
        restored = service.restore_from_trash(Ref.parse(target))
        body = jobs.restored(service, restored)
    if as_json:
        output.print_json(body)
    else:
        output.say(f"restored {target} as {restored}")
