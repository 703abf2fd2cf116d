from __future__ import annotations

import base64

from support.playbooks import metadata


def body(name="Stop idle databases", content="#!/usr/bin/env bash\necho hi\n", **fields):
    return {
        "metadata": metadata(name),
        "scripts": [{"path": "shell/main.sh", "content": content}],
        **fields,
    }


def test_created_read_updated_and_deleted(client):
    made = client.post("/v1/playbooks", json=body(strategy="keep"))
    assert made.status_code == 201
    assert set(made.json()) == {"playbook_id", "version", "warnings", "findings", "job_id"}
    assert client.get(f"/v1/jobs/{made.json()['job_id']}").json()["kind"] == "embed"

    shown = client.get("/v1/playbooks/stop-idle-databases").json()
    assert (shown["playbook_id"], shown["version"]) == ("stop-idle-databases", "1.0.0")
    assert [file["path"] for file in shown["files"]] == ["shell/main.sh"]
    assert set(shown["sync"]) == {"state", "revision", "error", "next_attempt_at"}
    assert shown == client.get("/v1/playbooks/stop-idle-databases/versions/1.0.0").json()

    changed = body()
    changed["scripts"][0] = {
        "path": "shell/main.sh",
        "content_base64": base64.b64encode(b"#!/usr/bin/env bash\necho two\n").decode(),
    }
    updated = client.put("/v1/playbooks/stop-idle-databases", json=changed)
    assert (updated.status_code, updated.json()["version"]) == (200, "1.0.0")
    again = client.get("/v1/playbooks/stop-idle-databases").json()
    assert again["content_digest"] != shown["content_digest"]

    gone = client.delete("/v1/playbooks/stop-idle-databases")
    assert gone.status_code == 202
    assert client.get(f"/v1/jobs/{gone.json()['job_id']}").status_code == 200
    assert client.get("/v1/playbooks/stop-idle-databases").status_code == 404


def test_scripts_say_whether_they_are_executable_and_leftovers_are_named(client):
    """What says nothing of modes keeps those of the version before."""
    sent = body()
    sent["scripts"][0]["executable"] = True
    sent["scripts"] += [
        {"path": "shell/main.sh~", "content": "old"},
        {"path": "shell/pru\u0308fen.txt", "content": "text", "executable": True},
    ]
    warnings = client.post("/v1/playbooks", json=sent).json()["warnings"]
    assert "left out: shell/main.sh~" in warnings
    assert any("NFC" in words for words in warnings)
    path = "/v1/playbooks/stop-idle-databases"
    marks = {file["path"]: file["executable"] for file in client.get(path).json()["files"]}
    assert marks == {"shell/main.sh": True, "shell/pr\u00fcfen.txt": False}
    client.put(path, json=body(content="#!/bin/sh\necho two\n"))
    assert [file["executable"] for file in client.get(path).json()["files"]] == [True]


def test_versions_are_listed_lowest_first_and_deleted_one_by_one(client):
    for version in ("1.2.0", "1.10.0", "1.9.0"):
        sent = body()
        sent["metadata"]["version"] = version
        assert client.post("/v1/playbooks", json=sent).status_code == 201
    path = "/v1/playbooks/stop-idle-databases"
    listed = client.get(f"{path}/versions").json()["items"]
    assert [item["version"] for item in listed] == ["1.2.0", "1.9.0", "1.10.0"]
    assert "files" not in listed[0]
    assert client.delete(f"{path}/versions/1.10.0").status_code == 202
    assert client.get(path).json()["version"] == "1.9.0"
    # "latest" is no version of this path: it must not be read as all of them
    assert client.delete(f"{path}/versions/latest").status_code == 404
    assert client.get(path).json()["version"] == "1.9.0"


def test_pages_follow_one_another(client):
    for number in range(5):
        client.post("/v1/playbooks", json=body(f"Playbook {number}"))
    seen, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get("/v1/playbooks", params=query).json()
        seen += [item["playbook_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"playbook-{number}" for number in range(5)]


def test_the_list_is_filtered(client):
    client.post("/v1/playbooks", json=body("Kept thing", strategy="keep"))
    client.post("/v1/playbooks", json=body("Shared thing", strategy="review"))

    def ids(**query):
        return [p["playbook_id"] for p in client.get("/v1/playbooks", params=query).json()["items"]]

    assert ids(strategy="review") == ids(strategy="uploaded_for_review") == ["shared-thing"]
    assert ids(sync="pending") == ["shared-thing"]
    assert ids(cloud="gcp") == []
    assert ids(cloud="aws", author="user_custom", status="ready") == ["kept-thing", "shared-thing"]
    assert client.get("/v1/playbooks", params={"strategy": "share"}).status_code == 422


def test_what_is_not_there_or_no_name_is_404(client):
    for path in ("nope", "No@pe", "nope/versions", "nope/versions/1.0.0", "a/versions/x"):
        answer = client.get(f"/v1/playbooks/{path}")
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.put("/v1/playbooks/nope", json=body()).status_code == 404
    assert client.delete("/v1/playbooks/nope").status_code == 404


def test_what_exists_is_409(client):
    client.post("/v1/playbooks", json=body())
    answer = client.post("/v1/playbooks", json=body())
    assert answer.status_code == 409
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("AlreadyExists", 409)
    assert problem["title"]
    assert "stop-idle-databases@1.0.0" in problem["detail"]


def test_a_body_that_breaks_a_rule_is_422_and_says_where(client):
    climbing = body()
    climbing["scripts"][0]["path"] = "shell/../../x.sh"
    twice = body()
    twice["scripts"] *= 2
    both = body()
    both["scripts"][0]["content_base64"] = "aGk="
    broken = body()
    broken["scripts"][0] = {"path": "shell/a.sh", "content_base64": "%%%"}
    nameless = body()
    del nameless["metadata"]["name"]
    unknown = body(strategi="keep")
    for sent, word in (
        (climbing, "shell/../../x.sh"),
        (twice, "twice"),
        (both, "content_base64"),
        (broken, "base64"),
        (nameless, "name"),
        (unknown, "strategi"),
    ):
        answer = client.post("/v1/playbooks", json=sent)
        assert answer.status_code == 422, sent
        assert word in answer.json()["detail"]


def test_a_problem_never_repeats_what_was_sent(client):
    sent = body(content=["hunter2"])
    answer = client.post("/v1/playbooks", json=sent)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


def test_parameters_and_plan_become_files(client):
    sent = body(parameters={"parameters": []}, explain_plan={"steps": ["look"]})
    assert client.post("/v1/playbooks", json=sent).status_code == 201
    shown = client.get("/v1/playbooks/stop-idle-databases").json()
    assert {file["path"] for file in shown["files"]} == {
        "shell/main.sh", "parameters.json", "explain_plan.json",
    }  # fmt: skip


def test_status(client):
    client.post("/v1/playbooks", json=body())
    path = "/v1/playbooks/stop-idle-databases/versions/1.0.0/status"
    answer = client.post(path, json={"status": "archived", "reason": "old"})
    assert answer.status_code == 200
    shown = client.get("/v1/playbooks/stop-idle-databases").json()
    assert shown["metadata"]["status"] == "archived"
    assert client.post(path, json={"status": "great"}).status_code in {400, 422}


LEAK = "export AWS_ACCESS_KEY_ID=" + "AKIA" + "Q3EGZ7XN5LWTM2RB\n"


def test_findings_of_the_secrets_scan_are_in_the_answers(client):
    made = client.post("/v1/playbooks", json=body(content=LEAK, strategy="keep")).json()
    [finding] = made["findings"]
    assert {k: v for k, v in finding.items() if k != "key"} == {
        "path": "shell/main.sh", "line": 1, "kind": "AWS Access Key", "degree": "certain",
    }  # fmt: skip
    where = "/v1/playbooks/stop-idle-databases"
    assert client.get(where).json()["findings"] == [finding]
    assert client.get(f"{where}/versions/1.0.0").json()["findings"] == [finding]
    changed = client.put(where, json=body(content="\n" + LEAK)).json()
    assert [f["line"] for f in changed["findings"]] == [2]
    assert "AKIA" not in str(made) + str(changed)


def test_block_is_a_409_and_an_accepted_finding_passes(client):
    made = client.post("/v1/playbooks", json=body(content=LEAK, strategy="keep")).json()
    ref = "stop-idle-databases@1.0.0"
    job = {"kind": "publish", "refs": [ref], "as": "review", "secrets_gate": "block"}
    refused = client.post("/v1/jobs", json=job)
    assert (refused.status_code, refused.json()["type"]) == (409, "Refused")
    assert made["findings"][0]["key"] in refused.json()["detail"]
    accept = [{"key": made["findings"][0]["key"], "reason": "AWS's own example"}]
    done = client.post("/v1/jobs", json=job | {"accept_findings": accept})
    assert done.status_code == 202
    assert [f["accepted"]["by"] for f in done.json()["findings"]] == ["api"]
    wrong = [{"key": "0" * 16, "reason": "x"}]
    assert client.post("/v1/jobs", json=job | {"accept_findings": wrong}).status_code == 404
    assert client.post("/v1/jobs", json=job | {"secrets_gate": "strict"}).status_code == 422
