"""`up`, `down` and `status`: the whole embedded service as one thing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import EscherError, StorageError
from core.files import make_private_dir
from escher_playbooks.cli import options, output, processes
from escher_playbooks.cli.processes import ProcessId
from escher_playbooks.cli.upstate import (
    ComponentStatus,
    State,
    UpState,
    clear_leftovers,
    hold_home,
    home_in_use,
    logs_path,
    read_state,
    remove_traces,
    running_pid,
    state_path,
    write_state,
)

if TYPE_CHECKING:
    from core.settings import Settings

DETACH_SECONDS = 600  # above the sum of what the components may take to start
DOWN_SECONDS = 120  # above the sum of what they may take to stop
POLL_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the API answers; `down` stops it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Start the whole service: broker, server, workers, beat, API, Flower."""
    from core.permissions import take_home
    from core.settings import load_settings
    from escher_playbooks.cli.preflight import check_before_start

    settings = load_settings()
    pid = running_pid(settings)
    if pid is not None:
        raise home_in_use(settings, str(pid or ""))
    take_home(settings, whole=True)
    make_private_dir(settings.run_path)
    make_private_dir(logs_path(settings))
    if not detach:
        _supervise(settings, as_json=as_json)
        return
    with hold_home(settings):
        clear_leftovers(settings)
        check_before_start(settings)
    _start_detached(settings)
    if as_json:
        output.print_json(_up_body(settings, current_components(settings)))
    else:
        output.say(_up_line(settings))


def _supervise(settings: Settings, *, as_json: bool) -> None:
    """Be the supervisor, in the foreground, until SIGTERM or Ctrl-C."""
    from escher_playbooks.cli.components import build_components
    from escher_playbooks.cli.preflight import check_before_start
    from escher_playbooks.cli.supervisor import Supervisor
    from escher_playbooks.cli.up_display import UpDisplay

    own = ProcessId.of(os.getpid())
    assert own is not None  # we are here
    with hold_home(settings), contextlib.ExitStack() as cleanup:
        clear_leftovers(settings)
        cleanup.callback(remove_traces, settings)
        cleanup.callback(_remove_clear_text, settings)
        state = State.STARTING
        write_state(settings, UpState(state, own))
        check_before_start(settings)
        display = None if as_json else cleanup.enter_context(UpDisplay())

        def note_state() -> None:
            try:
                write_state(settings, UpState(state, own, supervisor.statuses))
            except StorageError as error:  # a full disk ends no service
                output.note(str(error))

        def on_change(part: ComponentStatus, why: str) -> None:
            note_state()
            if display is not None:
                display.change(part, why, supervisor.statuses)

        def on_ready() -> None:
            nonlocal state
            state = State.RUNNING
            note_state()
            if display is not None:
                display.say(_up_line(settings))
            else:
                output.print_json(_up_body(settings, supervisor.statuses))
                sys.stdout.flush()

        supervisor = Supervisor(
            build_components(settings), settings.run_path, on_change=on_change, on_ready=on_ready
        )
        supervisor.run()


def _up_body(settings: Settings, parts: list[ComponentStatus]) -> dict[str, Any]:
    return {"components": [part.as_json() for part in parts], "api_url": settings.api_url}


def _up_line(settings: Settings) -> str:
    return f"up: API {settings.api_url}, Flower http://127.0.0.1:{settings.flower_port}"


def _start_detached(settings: Settings) -> None:
    """Start the supervisor in a session of its own and wait until all is up."""
    from escher_playbooks.cli.components import environment

    log = logs_path(settings) / "supervisor.log"
    written_before = processes.log_end(log)
    process = processes.start(
        [sys.executable, "-P", "-m", "escher_playbooks.cli.main", "up"],
        env=environment(settings),
        cwd=settings.run_path,
        log=log,
        tied=False,
    )
    try:
        what = _await_running(settings, process)
    except BaseException:  # Ctrl-C while waiting: half a service is of no use
        process.terminate()
        raise
    if what is not None:
        said = processes.tail(log, start=written_before)
        raise EscherError(f"The service {what}.\n{said}", f"The log is {log}.")


def _await_running(settings: Settings, process: subprocess.Popen[bytes]) -> str | None:
    """None once the supervisor says that all is up, else what happened instead."""
    deadline = time.monotonic() + DETACH_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return "did not start"
        state = read_state(settings)
        if state and state.supervisor.pid == process.pid and state.state is State.RUNNING:
            return None
        time.sleep(POLL_SECONDS)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(DOWN_SECONDS)
    return f"is not up after {DETACH_SECONDS} s"


def down(as_json: options.Json = False) -> None:
    """Stop the service and leave nothing behind."""
    from core.settings import load_settings

    settings = load_settings()
    stopped = _stop_supervisor(settings)
    ended: list[str] = []
    if settings.run_path.exists():
        with hold_home(settings):
            ended = clear_leftovers(settings)
    _remove_clear_text(settings)
    if as_json:
        output.print_json({"stopped": stopped, "leftovers": ended})
    elif stopped:
        output.say("down")
    elif ended:
        output.say(f"ended what a killed supervisor had left: {', '.join(ended)}")
    else:
        output.say("nothing was running")


def _remove_clear_text(settings: Settings) -> None:
    """Nothing of a sensitive playbook stays readable once the service is down."""
    from core.scripts.clear_text import ClearText

    ClearText(settings).remove_all()


def _stop_supervisor(settings: Settings) -> bool:
    """Ask the supervisor to stop and see that it does; False when none runs."""
    pid = running_pid(settings)
    if pid is None:
        return False
    state = read_state(settings)
    # It writes the file right after it takes the lock; before that, it has started nothing.
    deadline = time.monotonic() + 5
    while (state is None or state.supervisor.pid != pid) and time.monotonic() < deadline:
        if running_pid(settings) is None:
            return True
        time.sleep(POLL_SECONDS)
        state, pid = read_state(settings), running_pid(settings)
    if state is None or state.supervisor.pid != pid or not state.supervisor.alive:
        raise EscherError(
            f"{settings.home} is held by process {pid or 'unknown'}, which {state_path(settings)} does not name.",
            "See what that process is, and end it yourself.",
        )
    state.supervisor.signal(signal.SIGTERM)
    if not state.supervisor.wait(DOWN_SECONDS):
        output.note(f"the supervisor (pid {state.supervisor.pid}) does not end: killing it")
        state.supervisor.signal(signal.SIGKILL)
        state.supervisor.wait(processes.KILL_SECONDS)
    return True


def status(as_json: options.Json = False) -> None:
    """What runs, whether the server answers, and what is still to be done."""
    from core.settings import load_settings

    settings = load_settings()
    body = _status_body(settings)
    if as_json:
        output.print_json(body)
        return
    output.table(
        ("COMPONENT", "STATE", "PID"),
        ((part["name"], part["state"], part["pid"]) for part in body["components"]),
    )
    server, journal, sync = body["server"], body["journal"], body["sync"]
    reachable = "reachable" if server["reachable"] else "not reachable"
    since = f" since {output.moment(server['offline_since'])}" if server["offline_since"] else ""
    output.say(f"server   {server['url']} {reachable}{since}")
    output.say("journal  " + ", ".join(f"{count} {name}" for name, count in journal.items()))
    last = output.moment(sync["last_at"]) or "never"
    output.say(f"sync     last {last}{', running now' if sync['running'] else ''}")
    for warning in sync["warnings"]:
        output.say(f"         {warning}")
    if sync["deletions_waiting"]:
        output.say(
            f"         {sync['deletions_waiting']} deletions of the server wait:"
            " `sync --accept-deletions` carries them out"
        )


def _status_body(settings: Settings) -> dict[str, Any]:
    from core.service import PlaybookService

    with PlaybookService.open(settings) as service:
        rest = service.status()
    return {"components": [part.as_json() for part in current_components(settings)], **rest}


def current_components(settings: Settings) -> list[ComponentStatus]:
    """Each component as it is now; all stopped while nothing runs."""
    from escher_playbooks.cli.components import component_names

    state = read_state(settings)
    if state is None or not state.components:
        return [ComponentStatus(name, State.STOPPED) for name in component_names(settings)]
    return [_as_it_is(part) for part in state.components]


def _as_it_is(part: ComponentStatus) -> ComponentStatus:
    if part.process is None or part.process.alive:
        return part
    return ComponentStatus(part.name, State.STOPPED)
