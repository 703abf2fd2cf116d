"""One command's service: opened when the command runs, closed when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.service import PlaybookService


@contextmanager
def open_service() -> Iterator[PlaybookService]:
    """The home's service. Imports happen here, so `--help` pays for none of them."""
    from core.service import PlaybookService
    from core.settings import load_settings

    service = PlaybookService.open(load_settings())
    try:
        yield service
    finally:
        service.close()
