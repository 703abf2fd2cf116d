from __future__ import annotations

import pytest
from support.feed import at_odds, tell_theirs
from support.playbooks import metadata

from core.journal import Journal
from core.models import Ref

REF = Ref("a-thing", "1.0.0")
RESOLUTION = "/v1/conflicts/a-thing/1.0.0/resolution"


@pytest.fixture
def open_conflict(client, settings):
    scripts = [{"path": "shell/main.sh", "content": "echo ours\n"}]
    body = {"metadata": metadata("A thing"), "scripts": scripts, "strategy": "review"}
    assert client.post("/v1/playbooks", json=body).status_code == 201
    journal = Journal(settings.effective_journal_url)
    at_odds(journal, REF)
    yield journal
    journal.close()


def test_an_empty_home_has_none(client):
    assert client.get("/v1/conflicts").json() == {"items": []}


def test_an_open_decision_is_listed(client, open_conflict):
    [item] = client.get("/v1/conflicts").json()["items"]
    assert (item["playbook_id"], item["version"], item["state"]) == ("a-thing", "1.0.0", "open")
    assert item["kind"] == "open_conflict"
    assert item["server"]["revision"] == 1
    assert "echo" not in str(item)
    shown = client.get("/v1/playbooks/a-thing").json()
    assert shown["sync"]["state"] == "conflict"


def test_ours_becomes_another_version(client, open_conflict):
    answer = client.post(RESOLUTION, json={"as_version": "2.0.0"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["kept_as"], body["folder"]) == ("a-thing@2.0.0", None)
    assert client.get(f"/v1/jobs/{body['job_id']}").json()["kind"] in {"publish", "embed"}
    states = {
        item["version"]: item["sync"]["state"]
        for item in client.get("/v1/playbooks/a-thing/versions").json()["items"]
    }
    assert states == {"2.0.0": "pending"}, "theirs comes when the server answers"
    assert client.get("/v1/conflicts").json() == {"items": []}
    assert len(client.get("/v1/conflicts?all=true").json()["items"]) == 1
    assert client.post(RESOLUTION, json={"as_version": "2.0.0"}).status_code == 404


def test_theirs_is_taken_and_the_copy_is_listed(client, open_conflict, monkeypatch):
    tell_theirs(monkeypatch)
    body = client.post(RESOLUTION, json={"take": "theirs"}).json()
    [item] = client.get("/v1/conflicts").json()["items"]
    assert (item["state"], item["folder"]) == ("kept", body["folder"])


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"take": "theirs", "rename": "b"}, 400), ({"take": "ours"}, 422),
     ({"as_version": "two"}, 400), ({"rename": "escher-b"}, 409), ({"colour": "red"}, 422)],
)  # fmt: skip
def test_a_wrong_choice_is_refused_and_changes_nothing(client, open_conflict, body, status):
    answer = client.post(RESOLUTION, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/conflicts").json()["items"][0]["state"] == "open"


def test_what_is_not_there_is_not_found(client):
    for name in ("a-thing/1.0.0", "no@pe/1.0.0", "a-thing/two"):
        answer = client.post(f"/v1/conflicts/{name}/resolution", json={"take": "theirs"})
        assert answer.status_code == 404


def test_a_stranger_sees_nothing(stranger):
    assert stranger.get("/v1/conflicts").status_code == 401
