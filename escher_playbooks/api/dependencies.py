"""What routes are handed."""

from __future__ import annotations

import threading
from typing import Annotated, cast

from fastapi import Depends, Request

from core.service import PlaybookService
from core.settings import Settings


class Home:
    """The settings' home; its service is opened when it is first needed, once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._service: PlaybookService | None = None

    @property
    def service(self) -> PlaybookService:
        with self._lock:
            if self._service is None:
                self._service = PlaybookService.open(self.settings)
            return self._service

    def close(self) -> None:
        with self._lock:
            if self._service is not None:
                self._service.close()
                self._service = None


def _home(request: Request) -> Home:
    return cast("Home", request.app.state.home)


def _service(home: Annotated[Home, Depends(_home)]) -> PlaybookService:
    # a plain def: FastAPI runs it in a thread, as opening reads the disk
    return home.service


HomeOf = Annotated[Home, Depends(_home)]
Service = Annotated[PlaybookService, Depends(_service)]
