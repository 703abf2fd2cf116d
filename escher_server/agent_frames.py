"""The frames of the agent link: JSON text, each ``{type, id, …}``, read with suspicion."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, Field, StrictInt, StrictStr, ValidationError

from core.bounded_json import BadJson, read_object
from escher_server.config import MEBIBYTE
from escher_server.playbook_rules import PlaybookId, PlaybookVersion

PROTOCOL = 1
MAX_FRAME_BYTES = MEBIBYTE
MAX_RESULTS = 100
Frame = dict[str, Any]
FrameId = Annotated[StrictStr, Field(min_length=1, max_length=200)]


class FrameError(Exception):
    """A frame that is answered with ``error``; ``frame_id`` where it could be read."""

    def __init__(self, detail: str, frame_id: str | None = None) -> None:
        super().__init__(detail, frame_id)
        self.detail = detail
        self.frame_id = frame_id


class Hello(BaseModel):
    """What a client says first."""

    tenant_id: StrictStr
    client_id: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    protocol: StrictInt
    collections: Annotated[list[Annotated[StrictStr, Field(max_length=200)]], Field(max_length=64)]


class ClientResult(BaseModel):
    """One result of a client's; whatever else it holds is dropped here."""

    playbook_id: PlaybookId
    version: PlaybookVersion
    score: Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]
    status: Literal["active", "approved", "ready", "deprecated", "needs_update", "pending_review"]
    warning: Annotated[StrictStr, Field(max_length=500)] | None = None


class _Envelope(BaseModel):
    type: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    id: FrameId


def read_frame(text: str | None) -> Frame:
    """A JSON object with ``type`` and ``id``; `FrameError` for anything else.

    ``text`` is None for a binary message.
    """
    if text is None:
        raise FrameError("A frame is text, not bytes.")
    try:
        frame = read_object(text, max_bytes=MAX_FRAME_BYTES)
    except BadJson as error:
        raise FrameError(f"A frame is one JSON object; this {error.why}.") from None
    try:
        _Envelope.model_validate(frame)
    except ValidationError:
        raise FrameError("A frame has a type and an id, both short texts.") from None
    return frame


def read_hello(frame: Frame) -> Hello:
    """The body of a ``hello``; `FrameError` names what is wrong with it."""
    try:
        return Hello.model_validate(frame)
    except ValidationError as error:
        names = sorted({str(item["loc"][0]) for item in error.errors(include_input=False)})
        raise FrameError(f"hello: {', '.join(names)} not as agreed.", frame["id"]) from None


def read_results(frame: Frame, limit: int) -> list[ClientResult]:
    """At most ``limit`` results; one that can't be is left out, as it holds back no other."""
    raw = frame.get("results")
    if not isinstance(raw, list):
        raise FrameError("search.response has no list of results.", frame["id"])
    results = []
    for item in raw[: min(limit, MAX_RESULTS)]:
        try:
            results.append(ClientResult.model_validate(item))
        except ValidationError:
            continue
    return results


def error_frame(error: FrameError) -> Frame:
    """The answer to a frame that was not understood; it repeats nothing of it."""
    return {"type": "error", "id": error.frame_id, "detail": error.detail}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
