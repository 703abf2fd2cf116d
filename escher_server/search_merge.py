"""One list of what the server and the connected clients found.

What stands in the tenant space or in the library is the server's to tell: its own hit wins over a
client's, and its status over what a client may not have heard of yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from escher_server.agent_frames import ClientResult
from escher_server.database import Database
from escher_server.library import Library
from escher_server.search_index import SHOWN, WARNED, Hit, Key
from escher_server.search_service import warning_of
from escher_server.versions import find, shown_metadata

Result = dict[str, Any]


def merge(
    database: Database,
    library: Library,
    tenant_id: str,
    own: Iterable[tuple[str, Hit]],
    answers: Iterable[ClientResult],
    limit: int,
) -> list[Result]:
    """The best ``limit`` results of both, best first, each id and version once."""
    found = {hit.document.key: _own(source, hit) for source, hit in own}
    theirs: dict[Key, ClientResult] = {}
    for answer in answers:
        key = (answer.playbook_id, answer.version)
        if key not in theirs or answer.score > theirs[key].score:
            theirs[key] = answer
    for key, answer in theirs.items():
        if key not in found and library.find(*key) is None:
            result = _clients(database, tenant_id, answer)
            if result is not None:
                found[key] = result
    ranked = sorted(found.items(), key=lambda item: (-item[1]["score"], item[0]))
    return [result for _key, result in ranked[:limit]]


def _own(source: str, hit: Hit) -> Result:
    return {
        "playbook_id": hit.document.key[0],
        "version": hit.document.key[1],
        "source": source,
        "score": round(hit.score, 6),
        "status": hit.document.status,
        "warning": hit.document.warning,
    }


def _clients(database: Database, tenant_id: str, answer: ClientResult) -> Result | None:
    """A client's result as it is shown; None for one that the tenant has hidden or deleted."""
    result = {**answer.model_dump(), "source": "client", "score": round(answer.score, 6)}
    row = find(database.read(), tenant_id, answer.playbook_id, answer.version)
    if row is None:
        return result  # a private one, which its owner shares
    if row["deleted"] or row["status"] not in SHOWN | WARNED:
        return None
    warning = warning_of(row["status"], shown_metadata(row))
    return {**result, "status": row["status"], "warning": warning}
