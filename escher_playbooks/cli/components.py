"""What `up` starts, in which order, and how each part shows that it is ready.

    broker → server → worker-transfer, worker-embed, beat, api, agent, flower

The last six need the first two and not each other, so they start side by side; they stop one
after the other, from the right.

Each part inherits the settings as `up` has read them, so they mean the same to all; a secret goes
only to the parts that use it, and never on a command line.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import site
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from core.errors import EscherError
from core.setting_files import file_variable, is_secret
from core.settings import Settings
from escher_playbooks.cli.broker import broker_argv, find_binary, prepare_broker
from escher_playbooks.cli.supervisor import Component
from escher_playbooks.cli.tokens import flower_auth
from tasks.broker import broker_reachable, restore_unacked
from tasks.worker_signals import READY_FILE_VARIABLE

PROBE_SECONDS = 2
WORKER_STOP_SECONDS = 20
EMBED_THREADS = 4  # above tasks.lanes.MAX_BATCHES: the rest is for searches
SLOW_START_SECONDS = 180  # many imports on a busy machine
WORKERS = frozenset({"worker-transfer", "worker-embed"})
_ROOT = Path(__file__).resolve().parents[2]
# -P: only what is installed is imported. Celery itself puts the current folder first all the same,
# so the parts start in <home>/run, which is ours alone.
_PYTHON = (sys.executable, "-P", "-m")
_CELERY = (*_PYTHON, "celery", "-A", "tasks")


def build_components(settings: Settings) -> list[Component]:
    """The parts for these settings, first to last."""
    parts = []
    if settings.embeds_broker:
        parts.append(_broker(settings))
    if settings.embeds_server:
        parts.append(_server(settings))
    parts += [
        _worker(settings, "worker-transfer", "transfer,control", settings.transfer_concurrency + 2),
        _worker(settings, "worker-embed", "embed,search", EMBED_THREADS),
    ]
    parts.append(_beat(settings))  # without sync it still lets the cache be evicted
    parts.append(_api(settings))
    if settings.agent_enabled:
        parts.append(_agent(settings))
    return [*parts, _flower(settings)]


def component_names(settings: Settings) -> list[str]:
    """The parts' names without making anything, for `status` while nothing runs."""
    names = {
        "broker": settings.embeds_broker,
        "server": settings.embeds_server,
        "worker-transfer": True,
        "worker-embed": True,
        "beat": True,
        "api": True,
        "agent": settings.agent_enabled,
        "flower": True,
    }
    return [name for name, wanted in names.items() if wanted]


def server_address(settings: Settings) -> tuple[str, int]:
    """Where the embedded server listens."""
    parts = urlsplit(settings.server_url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def probe_host(host: str) -> str:
    """An address that reaches a server bound to ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  compared, not bound


def http_answers(host: str, port: int, path: str) -> bool:
    """Whether ``GET http://host:port/path`` is answered with 200; no proxy is asked."""
    connection = http.client.HTTPConnection(probe_host(host), port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _broker(settings: Settings) -> Component:
    binary = find_binary()
    return Component(
        name="broker",
        argv=broker_argv(settings, binary),
        env=environment(settings, keep=frozenset()),
        ready=lambda: _broker_answers(settings),
        ready_timeout=30,
        before_start=lambda _alive: prepare_broker(settings, binary),
        remedy=f"Should its files be damaged, remove {settings.run_path / 'broker'}: it holds only "
        "messages, and the next sync sends them again.",
    )


def _broker_answers(settings: Settings) -> bool:
    try:
        return broker_reachable(settings)
    except EscherError:  # somebody else's answers: ours can't, and its log says why
        return False


def _server(settings: Settings) -> Component:
    host, port = server_address(settings)
    return Component(
        name="server",
        argv=(*_PYTHON, "escher_playbooks.cli.main", "server"),
        env=environment(settings, keep=frozenset({"server_token"})),
        ready=lambda: http_answers(host, port, "/healthz"),
        ready_timeout=SLOW_START_SECONDS,
        stop_timeout=10,
    )


def _worker(settings: Settings, name: str, queues: str, threads: int) -> Component:
    ready_file = settings.run_path / f"{name}.ready"

    def before_start(alive: frozenset[str]) -> None:
        ready_file.unlink(missing_ok=True)
        if settings.embeds_broker and not alive & WORKERS:
            restore_unacked(settings)

    # the broker may be shared with other homes, and Celery wants names that differ
    home = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:8]
    return Component(
        name=name,
        argv=(
            *(*_CELERY, "worker", "-Q", queues, "-P", "threads", "-c", str(threads)),
            *("-n", f"{name.removeprefix('worker-')}-{home}@%h", "-I", "tasks.worker_signals"),
            *("-l", "INFO", "--without-mingle", "--without-gossip"),
        ),
        env=environment(settings) | {READY_FILE_VARIABLE: str(ready_file)},
        ready=ready_file.exists,
        ready_timeout=SLOW_START_SECONDS,
        with_previous=name != "worker-transfer",
        stop_timeout=WORKER_STOP_SECONDS,
        before_start=before_start,
        # Its broker goes at the same moment, so a warm shutdown would wait for it in vain.
        # What it had in hand is not acknowledged, and comes back.
        death_signal=signal.SIGKILL,
    )


def _beat(settings: Settings) -> Component:
    pid_file = settings.run_path / "beat.pid"
    schedule = settings.run_path / "beat-schedule"
    return Component(
        name="beat",
        argv=(*_CELERY, "beat", "-s", str(schedule), "--pidfile", str(pid_file), "-l", "INFO"),
        env=environment(settings, keep=frozenset({"broker_url", "result_backend"})),
        ready=pid_file.exists,
        ready_timeout=SLOW_START_SECONDS,
        stop_timeout=5,
        with_previous=True,
        before_start=lambda _alive: pid_file.unlink(missing_ok=True),
        remedy=f"Should its schedule be damaged, remove {schedule}*.",
    )


def _api(settings: Settings) -> Component:
    return Component(
        name="api",
        argv=(*_PYTHON, "escher_playbooks.api"),
        env=environment(settings),
        ready=lambda: http_answers(settings.api_host, settings.api_port, "/healthz"),
        ready_timeout=SLOW_START_SECONDS,
        stop_timeout=10,
        with_previous=True,
    )


def _agent(settings: Settings) -> Component:
    pid_file = settings.run_path / "agent.pid"
    return Component(
        name="agent",
        argv=(*_PYTHON, "escher_playbooks.cli.main", "agent", "--pidfile", str(pid_file)),
        env=environment(
            settings,
            keep=frozenset({"server_token", "broker_url", "result_backend", "journal_url"}),
        ),
        ready=pid_file.exists,
        ready_timeout=SLOW_START_SECONDS,
        stop_timeout=5,
        with_previous=True,
        critical=False,  # without it, changes on the server are seen at the next sync
        before_start=lambda _alive: pid_file.unlink(missing_ok=True),
    )


def _flower(settings: Settings) -> Component:
    return Component(
        name="flower",
        argv=(
            *(*_CELERY, "flower", "--address=127.0.0.1", f"--port={settings.flower_port}"),
            "--persistent=False",
        ),
        env=environment(settings, keep=frozenset({"broker_url", "result_backend"}))
        | {"FLOWER_BASIC_AUTH": flower_auth(settings)},
        ready=lambda: http_answers("127.0.0.1", settings.flower_port, "/healthcheck"),
        stop_timeout=5,
        with_previous=True,
        critical=False,  # playbooks are kept and published without a dashboard
    )


def environment(settings: Settings, keep: frozenset[str] | None = None) -> dict[str, str]:
    """The environment of this process with the settings made explicit.

    ``keep``: the secret settings that this part is given; None gives it all of them.
    """
    fields = type(settings).model_fields
    secret = {name for name, field in fields.items() if is_secret(field)}
    withheld = set() if keep is None else secret - keep
    hidden = {f"ESCHER_{name.upper()}" for name in withheld}
    hidden |= {file_variable(name) for name in withheld}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    for name in sorted(settings.model_fields_set - withheld):
        given = environment.get(file_variable(name))
        if given and Path(given).is_file():
            continue  # the part reads the file itself, and no process list shows the secret
        environment.pop(file_variable(name), None)  # a pipe is read once only
        value = _as_text(getattr(settings, name))
        if value is not None:
            environment[f"ESCHER_{name.upper()}"] = value
    environment |= {
        "ESCHER_HOME": str(settings.home),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    }
    if str(_ROOT) not in site.getsitepackages():  # run from a checkout: let the parts find it
        paths = [str(_ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _as_text(value: object) -> str | None:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return None if value is None else str(value)
