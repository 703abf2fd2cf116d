from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from escher_server import agent_connection
from escher_server.agent_connection import MAX_WAITING_FRAMES, Link
from escher_server.database import open_database
from escher_server.tenants import list_tokens, new_token, revoke_token

Session = Any
Ask = Callable[..., "Future[list[dict[str, Any]]]"]
DEADLINE_MS = 400


@contextlib.contextmanager
def connect(server: Any, token: str = "member-token", tenant_id: str = "acme") -> Iterator[Session]:
    url = f"/api/agent/ws?tenant_id={tenant_id}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with server.http.websocket_connect(url, headers=headers) as session:
        yield session


@contextlib.contextmanager
def linked(server: Any, client_id: str = "laptop", **who: str) -> Iterator[Session]:
    """A client that has said hello and was welcomed."""
    with connect(server, **who) as session:
        session.send_json(hello(client_id, who.get("tenant_id", "acme")))
        assert session.receive_json()["type"] == "welcome"
        yield session


def hello(client_id: str = "laptop", tenant_id: str = "acme", **changes: Any) -> dict[str, Any]:
    return {
        "type": "hello",
        "id": "h",
        "tenant_id": tenant_id,
        "client_id": client_id,
        "protocol": 1,
        "collections": ["user_playbooks"],
    } | changes


def result(playbook_id: str, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "playbook_id": playbook_id,
        "version": "1.0.0",
        "score": score,
        "status": "approved",
        "warning": None,
    } | changes


def answer(session: Session, *results: dict[str, Any]) -> dict[str, Any]:
    """Answer the next search; the request as it came."""
    request: dict[str, Any] = session.receive_json()
    assert request["type"] == "search.request"
    session.send_json({"type": "search.response", "id": request["id"], "results": list(results)})
    return request


def all_until_closed(session: Session) -> tuple[list[str], int]:
    """The types of the frames that still come, and the close code after them."""
    types = []
    while True:
        try:
            types.append(session.receive_json()["type"])
        except WebSocketDisconnect as closed:
            return types, closed.code


@pytest.fixture
def patient(start_server: Any) -> Any:
    return start_server(agent_deadline_ms=20_000)


@pytest.fixture
def hasty(start_server: Any) -> Any:
    return start_server(agent_deadline_ms=DEADLINE_MS)


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Search from another thread, so that the test can be the client meanwhile."""
    with ThreadPoolExecutor(4) as pool:

        def search(server: Any, query: str = "stop", **body: Any) -> Any:
            request = {"tenant_id": "acme", "query": query, "limit": 10, **body}

            def post() -> list[dict[str, Any]]:
                reply = server.member.post("/api/playbook/search", request)
                assert reply.status_code == 200, reply.text
                results: list[dict[str, Any]] = reply.json()["results"]
                return results

            return pool.submit(post)

        yield search


# -- connecting ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("token", "tenant_id", "status"),
    [("", "acme", 401), ("wrong", "acme", 401), ("other-token", "acme", 403)],
)
def test_a_stranger_is_refused_before_the_handshake(
    server: Any, token: str, tenant_id: str, status: int
) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, connect(server, token, tenant_id):
        pass
    assert refused.value.status_code == status
    assert refused.value.headers["content-type"] == "application/problem+json"


def test_ping_is_answered_and_unknown_types_are_ignored(server: Any) -> None:
    with linked(server) as session:
        session.send_json({"type": "of.tomorrow", "id": "1", "anything": [1]})
        session.send_json({"type": "ping", "id": "2"})
        assert session.receive_json() == {"type": "pong", "id": "2"}


@pytest.mark.parametrize(
    "frame",
    [
        "no json",
        "[1]",
        '{"type": "ping"}',
        '{"type": 7, "id": "1"}',
        '{"type": "ping", "id": "1", "x": NaN}',
        "[" * 100_000,
        b'{"type": "ping", "id": "1"}',
        json.dumps(hello(client_id="")),
        json.dumps(hello(tenant_id="other")),
        json.dumps(hello(protocol=2)),
        json.dumps(hello(collections="all")),
    ],
    ids=range(11),
)
def test_a_malformed_frame_gets_an_error_and_the_link_lives_on(
    server: Any, frame: str | bytes
) -> None:
    with connect(server) as session:
        send = session.send_bytes if isinstance(frame, bytes) else session.send_text
        send(frame)
        assert session.receive_json()["type"] == "error"
        session.send_json(hello())
        assert session.receive_json()["type"] == "welcome"


def test_a_frame_over_a_mebibyte_closes_with_1009(server: Any) -> None:
    with linked(server) as session:
        session.send_json({"type": "x", "id": "1", "text": "x" * (1 << 20)})
        with pytest.raises(WebSocketDisconnect) as closed:
            session.receive_json()
        assert closed.value.code == 1009


def test_who_says_no_hello_is_closed(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_connection, "HELLO_SECONDS", 0.05)
    with connect(server) as session:
        with pytest.raises(WebSocketDisconnect) as closed:
            session.receive_json()
        assert closed.value.code == 1008


def test_two_missed_pongs_end_the_link(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_connection, "PING_SECONDS", 0.05)
    with linked(server) as session:
        for _ in range(5):  # answered, it lives
            session.send_json({"type": "pong", "id": session.receive_json()["id"]})
        assert all_until_closed(session) == (["ping"] * 2, 1001)


def test_a_client_that_connects_again_replaces_itself(patient: Any, ask: Ask) -> None:
    with linked(patient) as before, linked(patient) as now:
        with pytest.raises(WebSocketDisconnect) as closed:
            before.receive_json()
        assert closed.value.code == 4000
        found = ask(patient)
        answer(now, result("mine"))
        assert [it["playbook_id"] for it in found.result(10)] == ["mine"]


def test_a_client_that_does_not_read_is_dropped_at_a_bound() -> None:
    async def fill() -> int:
        link = Link("acme")
        for _ in range(MAX_WAITING_FRAMES + 5):
            link.send({"type": "playbook.changed", "id": "x"})
        link.greeted.set_result(None)
        with pytest.raises(agent_connection.Ending) as ending:
            await link.watch()
        return ending.value.code

    assert asyncio.run(fill()) == 1013


# -- changes ------------------------------------------------------------------------------------
def test_each_change_of_a_version_is_told_once_with_its_revision(server: Any) -> None:
    server.member.publish(version="1.0.0")
    with linked(server) as session, linked(server, token="other-token", tenant_id="other") as other:
        server.member.publish(version="2.0.0")
        server.reviewer.set_status("stop", "2.0.0", "approved")
        server.reviewer.set_status("stop", "2.0.0", "approved")  # changes nothing
        server.member.delete("stop", "1.0.0", 2)
        told = [session.receive_json() for _ in range(4)]
        assert {frame["type"] for frame in told} == {"playbook.changed"}
        assert [(it["version"], it["revision"]) for it in told] == [
            ("2.0.0", 1),
            ("2.0.0", 2),
            ("1.0.0", 2),  # deprecated by the approval
            ("1.0.0", 3),
        ]
        for quiet in (session, other):
            quiet.send_json({"type": "ping", "id": "p"})
            assert quiet.receive_json()["type"] == "pong", "nothing else was sent"


def test_changes_are_told_to_those_who_said_hello(server: Any) -> None:
    with connect(server) as session:
        server.member.publish()
        session.send_json({"type": "ping", "id": "p"})
        assert session.receive_json()["type"] == "pong"


# -- searches -----------------------------------------------------------------------------------
def test_clients_are_asked_and_their_answers_merged(patient: Any, ask: Ask) -> None:
    patient.member.publish("stop")
    patient.reviewer.set_status("stop", "1.0.0", "approved")
    with linked(patient, "a") as one, linked(patient, "b") as two:
        found = ask(patient, filters={"cloud_provider": "aws"}, limit=3)
        request = answer(one, result("stop", 0.99), result("private", 0.9, status="ready"))
        answer(two, result("private", 0.95, status="ready"), result("low", 0.0001), result("x", 0))
        results = found.result(10)
    assert request["query"] == "stop"
    assert request["filters"] == {"cloud_provider": ["aws"]}
    assert (request["limit"], request["deadline_ms"]) == (3, 20_000)
    by_id = {it["playbook_id"]: it for it in results}
    assert by_id["stop"]["source"] == "tenant", "the tenant's own wins"
    assert by_id["private"] == result("private", 0.95, status="ready") | {"source": "client"}
    assert [it["score"] for it in results] == sorted((it["score"] for it in results), reverse=True)
    assert len(results) == 3


def test_what_the_tenant_hides_no_client_shows(patient: Any, ask: Ask) -> None:
    for name in ("rejected", "deleted", "pending"):
        patient.member.publish(name, name="Zebra", description="z", keywords=[])
    patient.reviewer.set_status("rejected", "1.0.0", "rejected")
    patient.member.delete("deleted", "1.0.0", 1)
    with linked(patient) as session:
        found = ask(patient, "stop")
        answer(session, result("rejected"), result("deleted"), result("pending"))
        (shown,) = found.result(10)
    assert (shown["playbook_id"], shown["source"]) == ("pending", "client")
    assert (shown["status"], shown["warning"]) == ("pending_review", "not reviewed yet")


def test_only_what_the_contract_names_is_taken_from_a_client(patient: Any, ask: Ask) -> None:
    with linked(patient) as session:
        found = ask(patient)
        answer(
            session,
            result("good", script="rm -rf /"),
            result("../bad"),
            result("bad-version", version="1"),
            result("bad-score", score=7.0),
            result("bad-score-too", score="0.5"),
            result("bad-status", status="rejected"),
            "no object",  # type: ignore[arg-type]  # that is the point
        )
        assert found.result(10) == [result("good") | {"source": "client"}]


@pytest.mark.parametrize("body", [{"type": "error"}, {"type": "search.response", "results": 7}])
def test_a_client_that_fails_is_left_out_at_once(
    patient: Any, ask: Ask, body: dict[str, Any]
) -> None:
    patient.member.publish()
    with linked(patient) as session:
        found = ask(patient)
        request = session.receive_json()
        session.send_json({"id": request["id"], **body})
        assert [it["source"] for it in found.result(10)] == ["tenant"]


def test_a_silent_client_costs_the_deadline_and_no_more(hasty: Any, ask: Ask) -> None:
    hasty.member.publish()
    with linked(hasty, "silent") as silent, linked(hasty, "quick") as quick:
        began = time.monotonic()
        found = ask(hasty)
        request = silent.receive_json()
        answer(quick, result("quick"))
        results = found.result(10)
        took = time.monotonic() - began
        assert {it["playbook_id"] for it in results} == {"stop", "quick"}
        assert took < DEADLINE_MS / 1000 + 1.5  # the rest is this machine's
        # too late: dropped, and the link lives on
        silent.send_json({"type": "search.response", "id": request["id"], "results": []})
        silent.send_json({"type": "ping", "id": "p"})
        assert silent.receive_json()["type"] == "pong"


def test_who_missed_the_deadline_is_not_waited_for_until_it_answers(
    start_server: Any, ask: Ask
) -> None:
    server = start_server(agent_deadline_ms=2000)
    with linked(server) as session:
        assert ask(server).result(20) == []
        began = time.monotonic()
        assert ask(server).result(20) == []
        assert time.monotonic() - began < 1.5
        answer(session, result("late"))
        session.send_json({"type": "ping", "id": "p"})
        assert session.receive_json()["type"] == "search.request"
        assert session.receive_json()["type"] == "pong"
        found = ask(server)
        answer(session, result("in-time"))
        assert [it["playbook_id"] for it in found.result(20)] == ["in-time"]


def test_a_client_that_leaves_is_not_waited_for(patient: Any, ask: Ask) -> None:
    patient.member.publish()
    with linked(patient) as session:
        found = ask(patient)
        session.receive_json()
    assert [it["source"] for it in found.result(10)] == ["tenant"]


def test_another_tenants_clients_are_not_asked(hasty: Any, ask: Ask) -> None:
    with linked(hasty, token="other-token", tenant_id="other") as other:
        assert ask(hasty).result(10) == []
        other.send_json({"type": "ping", "id": "p"})
        assert other.receive_json()["type"] == "pong"


def test_a_link_ends_when_its_token_is_revoked(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_connection, "PING_SECONDS", 0.05)
    database = open_database(server.data_dir)
    token = new_token(database, "acme", "member", "ann")
    with linked(server, token=token) as session:
        [record] = [it for it in list_tokens(database) if it.member == "ann"]
        revoke_token(database, record.token_id)
        database.close()
        assert all_until_closed(session)[1] == agent_connection.POLICY
    with pytest.raises(WebSocketDenialResponse), connect(server, token=token):
        pass
