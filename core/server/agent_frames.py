"""Read and write the frames of the agent link.

Whatever the server sends is a stranger's. Whatever goes out is metadata and scores: results are
copied field by field, so nothing else can leave.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.bounded_json import BadJson, read_object
from core.errors import EscherError, UsageError
from core.models import Ref

PROTOCOL = 1
MAX_FRAME_BYTES = 1 << 20
MAX_LIMIT = 100
MAX_QUERY_CHARS = 4000
MAX_DEADLINE_MS = 60_000
MAX_ID_CHARS = 200
# of each text in a result: a hundred of them stay below MAX_FRAME_BYTES, even escaped
SENT_TEXTS = {
    "playbook_id": 100,
    "version": 64,
    "name": 200,
    "description": 500,
    "status": 20,
    "warning": 300,
}
Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What the server wants searched; ``deadline_ms`` counts from its arrival."""

    id: str
    query: str
    filters: dict[str, str | list[str]]
    limit: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """A version that has another revision on the server."""

    ref: Ref
    revision: int


def read_frame(message: str | bytes) -> Frame:
    """Read a JSON object with a ``type`` and an ``id``; `UsageError` for anything else."""
    try:
        frame = (
            read_object(message, max_bytes=MAX_FRAME_BYTES) if isinstance(message, str) else None
        )
    except BadJson as error:
        raise UsageError(f"A frame is text with one JSON object; this one {error.why}.") from None
    if frame is None:
        raise UsageError("A frame is text with one JSON object.")
    if not _is_short(frame.get("type")) or not _is_short(frame.get("id")):
        raise UsageError("A frame has a type and an id, both short texts.")
    return frame


def read_search(frame: Frame) -> SearchRequest:
    """Read the body of a ``search.request``; `UsageError` names the field that is wrong."""
    query, filters = frame.get("query"), frame.get("filters") or {}
    if not isinstance(query, str) or not query.strip() or len(query) > MAX_QUERY_CHARS:
        raise UsageError(f"query is no text of 1 to {MAX_QUERY_CHARS} characters.")
    if not isinstance(filters, dict) or not all(map(_is_filter, filters.values())):
        raise UsageError("filters holds something other than texts and lists of texts.")
    return SearchRequest(
        frame["id"],
        query,
        {name: value for name, value in filters.items() if value},
        _number(frame, "limit", MAX_LIMIT),
        _number(frame, "deadline_ms", MAX_DEADLINE_MS),
    )


def read_change(frame: Frame) -> Change:
    """Read the body of a ``playbook.changed``; its names are checked before anything is done."""
    ref = Ref.parse(f"{frame.get('playbook_id')}@{frame.get('version')}")
    return Change(ref, _number(frame, "revision", 2**53))


def response(frame_id: str, results: Iterable[Mapping[str, Any]], limit: int) -> Frame:
    """Make a ``search.response`` of the first ``limit`` results that have a score."""
    shown = [_result(result) for result in results if _is_score(result.get("score"))]
    return {"type": "search.response", "id": frame_id, "results": shown[:limit]}


def failure(frame_id: str | None, error: EscherError) -> Frame:
    """Make an ``error``; its words only where they are about the request, as others may name folders."""
    detail = error.detail if isinstance(error, UsageError) else error.title
    return {"type": "error", "id": frame_id, "title": error.type, "detail": detail}


def to_text(frame: Frame) -> str:
    return json.dumps(frame, ensure_ascii=True, separators=(",", ":"))


def _result(result: Mapping[str, Any]) -> Frame:
    shown: Frame = {"score": min(1.0, max(0.0, float(result["score"])))}
    for name, length in SENT_TEXTS.items():
        value = result.get(name)
        shown[name] = value[:length] if isinstance(value, str) else None
    return shown


def _is_short(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS


def _is_filter(value: object) -> bool:
    if value is None or isinstance(value, str):
        return True
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(frame: Frame, name: str, highest: int) -> int:
    value = frame.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
        raise UsageError(f"{name} is no number from 1 to {highest}.")
    return value
