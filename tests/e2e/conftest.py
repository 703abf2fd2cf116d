"""Services that the tests of a whole file share: each start costs seconds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder
from support.service import ServiceUnderTest

MakeHome = Callable[..., ServiceUnderTest]


@pytest.fixture(scope="module")
def module_home() -> Iterator[MakeHome]:
    """Make homes for a file's tests; whatever runs is stopped at its end."""
    made: list[ServiceUnderTest] = []

    def make(**settings: str) -> ServiceUnderTest:
        home = Path(tempfile.mkdtemp(prefix="escher-test-")) / "home"
        service = ServiceUnderTest(home, **settings)
        made.append(service)
        return service

    yield make
    for service in made:
        if (service.home / "run" / "up.json").exists():
            service.cli("down", timeout=120)
        shutil.rmtree(service.home.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def home(module_home: MakeHome) -> Iterator[ServiceUnderTest]:
    """A home without `up` that holds ``stands-here@1.0.0``; it still verifies at the end."""
    made = module_home()
    source = write_folder(made.home.parent / "source", draft("Stands here"))
    made.json("create", str(source), "--strategy", "keep")
    yield made
    assert made.json("verify") == {"checked": 1, "clean": True, "problems": []}


@pytest.fixture(scope="module")
def running(module_home: MakeHome) -> ServiceUnderTest:
    """A running service that a whole file shares."""
    made = module_home()
    made.up()
    return made
