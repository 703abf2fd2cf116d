"""Whose versions are whose: what says that a version was made on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from core.errors import UsageError
from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service

keys_app = typer.Typer(help="Keys, and what was made here.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(keys_app, name="keys")


@keys_app.command()
def claim(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="ID@VERSION…", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All whose origin is not known.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say that versions were made here, so that they may be run before anybody approved them.

    For homes from before that was kept, and for a journal that was lost: what was published then
    may be anybody's.
    """
    if bool(targets) == all_:
        raise UsageError("Name versions, or give --all.", "Write ID@VERSION, or --all.")
    with open_service() as service:
        from core.service.importing import claim_origin

        claimed = claim_origin(service.journal, service.catalog, None if all_ else targets)
    if as_json:
        output.print_json({"claimed": [str(ref) for ref in claimed]})
        return
    for ref in claimed:
        output.say(f"made here: {ref}")
    if not claimed:
        output.note("nothing to claim: all of it is known to be made here, or was pulled")
