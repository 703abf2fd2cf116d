"""A home that the tests of a whole file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.playbooks import draft, write_folder
from support.service import MakeService, ServiceUnderTest


@pytest.fixture(scope="module")
def home(module_home: MakeService) -> Iterator[ServiceUnderTest]:
    """A home without `up` that holds ``stands-here@1.0.0``; it still verifies at the end."""
    made = module_home()
    source = write_folder(made.home.parent / "source", draft("Stands here"))
    made.json("create", str(source), "--strategy", "keep")
    yield made
    assert made.json("verify") == {"checked": 1, "clean": True, "problems": []}
