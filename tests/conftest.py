"""Fixtures of the tests that run the whole service."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.postgres import POSTGRESQL, SQLITE, Postgres, running_postgres
from support.service import MakeService, ServiceUnderTest

# how fast a machine draws examples says nothing of the code, and CI's are busy
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Whole services first, and of these the longest first: at the end the small files of `unit` fill up
# what is left, where a long one would run alone, while the other workers idle.
LONGEST = ("test_corpus", "test_killed_workers", "test_two_clients_model", "test_publishing")

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "tests" / "unit"
CHAOS = ROOT / "tests" / "chaos"
CORPUS = ROOT.parent / "shared" / "corpus" / "corpus.tar.gz"

DISK = tempfile.gettempdir()
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 << 30


def pytest_configure() -> None:
    """Put what tests write into memory where there is plenty: no test cuts the power, and fsync waits.

    The homes of `chaos`, where processes are killed, stay on the disk. Whoever names a place
    (``--basetemp`` for `tmp_path`, ``PYTEST_DEBUG_TEMPROOT`` for all) gets it.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        tempfile.tempdir = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for ``--no-loadscope-reorder``; within a file nothing moves."""

    def rank(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.stem
        place = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        return place, UNIT in item.path.parents

    items.sort(key=rank)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: workers must collect the same names, and gzip writes the time."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def examples() -> Path:
    return ROOT / "examples" / "playbooks"


@pytest.fixture
def corpus() -> Path:
    if not CORPUS.is_file():
        pytest.skip("the corpus (../shared/corpus) is not beside the project")
    return CORPUS


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this session's tests, started by the first that wants it."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The journal's engine; a test with `support.postgres.on_both_engines` runs on each."""
    return str(getattr(request, "param", SQLITE))


@pytest.fixture
def new_journal_url(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[], str]]:
    """Names for new journals on the test's engine; on SQLite the first is ``journal.db``."""
    numbers = itertools.count()
    with _databases(request) as new_database:

        def make() -> str:
            if engine == POSTGRESQL:
                return new_database()
            return f"sqlite:///{tmp_path}/journal{next(numbers) or ''}.db"

        yield make


@contextmanager
def _databases(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """New databases of PostgreSQL, which are dropped at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(request.getfixturevalue("postgres").create_database())
        return made[-1]

    yield make
    for url in made:
        request.getfixturevalue("postgres").drop_database(url)


@pytest.fixture
def journal_url(new_journal_url: Callable[[], str]) -> str:
    return new_journal_url()


@contextmanager
def _services(request: pytest.FixtureRequest) -> Iterator[MakeService]:
    """Make services; what runs of them is stopped at the end, and their homes are removed."""
    made: list[ServiceUnderTest] = []
    place = DISK if CHAOS in request.path.parents else tempfile.gettempdir()
    with _databases(request) as new_database:

        def make(engine: str = SQLITE, **settings: Any) -> ServiceUnderTest:
            if engine == POSTGRESQL:
                settings = {"journal_url": new_database(), **settings}
            # not tmp_path: its name is too long for a socket, which has a test of its own
            home = Path(tempfile.mkdtemp(prefix="escher-test-", dir=place)) / "home"
            made.append(ServiceUnderTest(home, **settings))
            return made[-1]

        yield make
        for service in made:
            if service.is_up:
                service.cli("down", timeout=120)
            shutil.rmtree(service.home.parent, ignore_errors=True)


@pytest.fixture
def new_service(engine: str, request: pytest.FixtureRequest) -> Iterator[MakeService]:
    """Make services of the test's own, on its engine."""
    with _services(request) as make:
        yield functools.partial(make, engine)


@pytest.fixture(scope="module")
def module_home(request: pytest.FixtureRequest) -> Iterator[MakeService]:
    """Make services that a file's tests share: each start costs seconds."""
    with _services(request) as make:
        yield make


@pytest.fixture
def service(new_service: MakeService) -> ServiceUnderTest:
    """A running service with a sync every three seconds."""
    made = new_service()
    made.up()
    return made


@pytest.fixture
def server_only(new_service: MakeService) -> Iterator[ServiceUnderTest]:
    """A home whose reference server runs, with faults, and nothing else."""
    service = new_service(server_faults="true")
    with service.server_alone():
        yield service
