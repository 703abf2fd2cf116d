"""What a Qdrant server's failures mean here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from core.errors import (
    EscherError,
    IndexCorrupt,
    Refused,
    ServerBusy,
    ServerRejected,
    ServerUnreachable,
)


@contextmanager
def server_errors(name: str) -> Iterator[None]:
    from qdrant_client.http.exceptions import (
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        yield
    except ResponseHandlingException as error:
        raise ServerUnreachable(
            "The Qdrant server does not answer.", "Check ESCHER_QDRANT_URL and the server."
        ) from error
    except UnexpectedResponse as error:
        raise _by_status(error.status_code or 0, name) from error


def _by_status(status: int, name: str) -> EscherError:
    if status in {401, 403}:
        return Refused("The Qdrant server refuses the key.", "Check ESCHER_QDRANT_API_KEY.")
    if status == HTTPStatus.NOT_FOUND:
        return IndexCorrupt(
            f"The Qdrant server has no collection {name!r} any more.",
            "It is rebuilt from the playbooks: escher-playbooks reindex.",
        )
    if status in {408, 425, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerBusy(f"The Qdrant server answered {status}.", "It is tried again later.")
    return ServerRejected(f"The Qdrant server answered {status}.", "See its log for the reason.")
