"""`escher-playbooks`: puts the commands together and turns every ending into an exit code.

Importing this loads no model library, no Celery and no journal: commands import what they need
when they run, so `--help` and completion answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from core.errors import EscherError, UsageError
from core.files import UMASK
from core.terminal import guard_process
from escher_playbooks.cli import (
    agent_command,
    cache_commands,
    config_commands,
    conflict_commands,
    decide_command,
    doctor,
    execution_commands,
    jobs_commands,
    keys_commands,
    options,
    output,
    playbook_commands,
    publish_commands,
    reading_commands,
    search_commands,
    server_command,
    service_commands,
    trash_commands,
)

NAME = "escher-playbooks"
DISTRIBUTION = "escher-playbook-service"

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: the same in a pipe, and rich is not loaded for it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            output.say(f"{NAME} {metadata.version(DISTRIBUTION)}")
        except metadata.PackageNotFoundError:
            output.say(f"{NAME} (not installed: run from its source)")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version)
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Keep, publish and search cloud-operations playbooks. Works offline."""


for _commands in (
    service_commands,
    playbook_commands,
    decide_command,
    reading_commands,
    publish_commands,
    conflict_commands,
    trash_commands,
    search_commands,
    execution_commands,
    cache_commands,
    jobs_commands,
    keys_commands,
    server_command,
    agent_command,
    config_commands,
    doctor,
):
    _commands.register(app)


def main() -> None:
    """The console script."""
    os.umask(UMASK)
    guard_process()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has had enough, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Never raises."""
    arguments = _json_last(arguments)
    as_json = _wants_json(arguments)
    if not as_json:  # then standard error holds one document
        _tell_of_dotenv()
    try:
        result = app(list(arguments), prog_name=NAME, standalone_mode=False)
    except EscherError as error:
        return output.fail(error, as_json=as_json)
    except typer.Abort:
        output.note("Stopped.")
        return 1
    except KeyboardInterrupt:
        return output.INTERRUPTED
    except BrokenPipeError:
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001  the last stop: no traceback reaches a user
        usage = _usage_error(error)
        return output.fail(usage or error, as_json=as_json)
    return result if isinstance(result, int) else 0


def _tell_of_dotenv() -> None:
    """Say that a `.env` with settings, here or in the home, is not read."""
    home = os.path.expanduser(os.environ.get("ESCHER_HOME") or "~/.escher")  # noqa: PTH111  pathlib raises where there is none
    found = [
        Path(folder)
        for folder in dict.fromkeys((os.curdir, home))
        if Path(folder, ".env").is_file()
    ]
    if found:
        from escher_playbooks.cli.setting_sources import ignored_dotenv

        for sentence in ignored_dotenv(*found):
            output.note(sentence)


def _usage_error(error: Exception) -> UsageError | None:
    """A wrong option or argument, as the command-line parser puts it."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else NAME
    return UsageError(str(message()).rstrip(), f"`{command} --help` shows how it is used.")


def _wants_json(arguments: Sequence[str]) -> bool:
    return "--json" in _before_dashes(arguments)


def _json_last(arguments: Sequence[str]) -> list[str]:
    """Move ``--json`` to the end, where the innermost command takes it, wherever it was written."""
    options_part = _before_dashes(arguments)
    rest = list(arguments[len(options_part) :])
    if "--json" not in options_part:
        return list(arguments)
    return [word for word in options_part if word != "--json"] + ["--json"] + rest


def _before_dashes(arguments: Sequence[str]) -> list[str]:
    words = list(arguments)
    return words[: words.index("--")] if "--" in words else words


if __name__ == "__main__":
    main()
