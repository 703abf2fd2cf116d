"""A home that is open in this process, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.clock import Clock
from support.rag import open_service

from core.service import PlaybookService
from core.settings import Settings


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_home(tmp_path: Path) -> Iterator[Callable[..., PlaybookService]]:
    """Open homes, closed at the end: ``open_home(settings, **changes of them)``.

    Without ``settings`` it is ``tmp_path / "home"``, whose server does not answer.
    """
    alone = Settings(
        _env_file=None,  # type: ignore[call-arg]  # pydantic-settings' own argument
        home=tmp_path / "home",
        server_url="http://127.0.0.1:9",
        server_token="x",  # type: ignore[arg-type]
    )
    with ExitStack() as stack:

        def make(settings: Settings | None = None, **changes: Any) -> PlaybookService:
            wanted = (settings or alone).model_copy(update=changes)
            return stack.enter_context(open_service(wanted))

        yield make
