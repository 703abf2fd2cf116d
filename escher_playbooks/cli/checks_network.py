"""What `doctor` looks at beyond the disk: the broker, the ports, the Escher server, Qdrant."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from core.errors import EscherError, ServerRejected, TransientError
from core.settings import Settings
from escher_playbooks.cli.broker import find_binary
from escher_playbooks.cli.checks import Finding
from escher_playbooks.cli.preflight import ports
from escher_playbooks.cli.upstate import State, read_state, running_pid
from tasks.broker import broker_reachable

MAX_CLOCK_SECONDS = 300  # object stores refuse signatures that are a quarter of an hour off
ANSWER_SECONDS = 5
_UNAUTHORISED = {401, 403}


def broker(settings: Settings) -> Iterator[Finding]:
    if not settings.embeds_broker:
        ok = broker_reachable(settings)
        remedy = "" if ok else "Start it, or correct ESCHER_BROKER_URL."
        yield Finding("broker", ok, "broker_url answers" if ok else "broker_url: no answer", remedy)
        return
    try:
        binary = find_binary()
    except EscherError as error:
        yield Finding.from_error("broker", error)
        return
    # raises what is wrong where somebody else's server answers there
    running = "running" if broker_reachable(settings) else "not running; `up` starts it"
    yield Finding("broker", True, f"{binary} ({binary.path}), {running}")


def listening_ports(settings: Settings) -> Iterator[Finding]:
    ours = _running_components(settings)
    owner = {"server_url": "server", "api_port": "api", "flower_port": "flower"}
    for port in ports(settings):
        if owner[port.setting] in ours:
            yield Finding(f"port {port.number}", True, f"{port.setting}, used by this service")
            continue
        why = port.problem()
        if why is None:
            yield Finding(f"port {port.number}", True, f"{port.setting}, free")
        else:
            yield Finding.from_error(f"port {port.number}", port.error(why))


def _running_components(settings: Settings) -> set[str]:
    if running_pid(settings) is None:
        return set()
    state = read_state(settings)
    return (
        {part.name for part in state.components if part.state != State.STOPPED} if state else set()
    )


def server(settings: Settings) -> Iterator[Finding]:
    """Whether an Escher server answers there, and takes our token."""
    from core.server.client import EscherServer

    if settings.embeds_server and "server" not in _running_components(settings):
        yield Finding("server", True, f"{settings.server_url} is embedded; `up` starts it")
        return
    client = EscherServer(settings)
    try:
        client.change_page(limit=1)
    except ServerRejected as error:
        yield Finding.from_error("server", error)
    except TransientError as error:
        remedy = error.remedy or "Work goes on offline; check server_url and the network."
        yield Finding("server", False, error.detail, remedy)
    except EscherError as error:
        yield Finding.from_error("server", error)
    else:
        yield Finding("server", True, f"{settings.server_url} takes this home's token")
        yield from _clock(settings)
    finally:
        client.close()


def _clock(settings: Settings) -> Iterator[Finding]:
    import requests

    with contextlib.suppress(requests.RequestException, TypeError, ValueError):
        answer = requests.get(
            f"{settings.server_url}/healthz", timeout=ANSWER_SECONDS, allow_redirects=False
        )
        theirs = parsedate_to_datetime(answer.headers["Date"] or "").timestamp()
        apart = abs(time.time() - theirs)
        ok = apart <= MAX_CLOCK_SECONDS
        remedy = "" if ok else "Set this machine's clock (NTP)."
        yield Finding("clock", ok, f"{apart:.0f} s apart from the server's", remedy)


def qdrant(settings: Settings) -> Iterator[Finding]:
    import requests

    if settings.qdrant_url is None:
        return
    key = settings.qdrant_api_key
    headers = {"api-key": key.get_secret_value()} if key else {}
    url = settings.qdrant_url.rstrip("/")
    try:
        answer = requests.get(
            f"{url}/collections", headers=headers, timeout=ANSWER_SECONDS, allow_redirects=False
        )
    except requests.RequestException as error:
        detail = f"{url} does not answer ({type(error).__name__})"
        yield Finding("qdrant", False, detail, "Start it, or correct ESCHER_QDRANT_URL.")
        return
    if answer.ok:
        yield Finding("qdrant", True, url)
    elif answer.status_code in _UNAUTHORISED:
        yield Finding("qdrant", False, f"{url} refuses the key", "Correct ESCHER_QDRANT_API_KEY.")
    else:
        detail = f"{url} answers {answer.status_code}"
        yield Finding("qdrant", False, detail, "Check that a Qdrant server is there.")
