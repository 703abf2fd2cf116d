"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from core.models import Strategy

Json = Annotated[bool, typer.Option("--json", help="Print the body of the matching HTTP answer.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until it is done; without `up`, do it in this process.")
]
Deep = Annotated[
    bool, typer.Option("--deep", help="Check the scripts, too: parsers, shellcheck and cfn-lint.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds metadata.json.")]
Target = Annotated[str, typer.Argument(metavar="ID[@VERSION]", show_default=False)]
PlaybookId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, as `jobs ls` prints it.")]
StrategyChoice = Annotated[
    str | None,
    typer.Option("--strategy", help="keep, review or trusted; else it is kept private."),
]


def read_strategy(text: str | None) -> Strategy | None:
    """The strategy that was asked for, in its long or short name."""
    from core.models import Strategy

    return None if text is None else Strategy.parse(text)
