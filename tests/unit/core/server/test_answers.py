from __future__ import annotations

import email.utils
import json
import time

import pytest

from core.bounded_json import MAX_DEPTH, BadJson
from core.errors import (
    Conflict,
    FilesMissing,
    NotEscherServer,
    ServerBusy,
    ServerRejected,
    UrlExpired,
)
from core.server.answers import (
    api_error,
    clean_words,
    read_change_page,
    read_problem,
    retry_after,
    storage_error,
)

TOKEN = "CANARY-TOKEN-1"
CALL = "POST https://escher.example/api/playbook/upload"


def problem(**members: object) -> bytes:
    return json.dumps({"title": "Nope", "detail": "because", **members}).encode()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_transient_statuses_may_be_retried(status: int):
    error = api_error(status, {"Retry-After": "12"}, b"<html>", CALL, TOKEN)
    assert type(error) is ServerBusy
    assert error.retry_after == 12


@pytest.mark.parametrize("status", [400, 401, 403, 410, 413, 422, 428, 501])
def test_other_statuses_are_permanent_in_the_servers_words(status: int):
    error = api_error(status, {}, problem(), CALL, TOKEN)
    assert type(error) is ServerRejected
    assert f"{status}: Nope: because" in error.detail


@pytest.mark.parametrize("status", [409, 412])
def test_a_conflict_brings_the_servers_side(status: int):
    error = api_error(status, {}, problem(server={"revision": 3}), CALL, TOKEN)
    assert isinstance(error, Conflict)
    assert error.server == {"revision": 3}


def test_missing_files_are_named():
    error = api_error(424, {}, problem(missing=["shell/a.sh", "b\x00c"]), CALL, TOKEN)
    assert isinstance(error, FilesMissing)
    assert r"shell/a.sh, b\x00c" in error.detail


@pytest.mark.parametrize(("status", "body"), [(302, b""), (404, b"<html>"), (405, b"[]")])
def test_what_no_escher_server_answers_names_the_url_and_the_remedy(status: int, body: bytes):
    error = api_error(status, {"Location": "https://x/?token=1"}, body, CALL, TOKEN)
    assert isinstance(error, NotEscherServer)
    assert "https://escher.example" in error.detail
    assert "server_url" in error.remedy


def test_storage_answers():
    assert isinstance(storage_error(403, {}, b"", "shell/a.sh"), UrlExpired)
    assert isinstance(storage_error(503, {}, b"", "shell/a.sh"), ServerBusy)
    redirect = storage_error(307, {"Location": "https://x/?token=1"}, b"", "shell/a.sh")
    assert isinstance(redirect, NotEscherServer)
    assert "token" not in str(redirect)
    error = storage_error(418, {}, b"<CanonicalRequest>X-Amz-Signature=1", "shell/a.sh")
    assert type(error) is ServerRejected
    assert "Signature" not in str(error)


def test_words_are_cut_and_cleaned():
    words = clean_words(
        f"a\x1b[31m\u202eb\n{TOKEN} https://h/p?sig=1&x=2 Signature=abc " + "y" * 900, TOKEN
    )
    assert words.startswith(r"a\x1b[31m\u202eb *** https://h/p Signature=*** yyy")
    assert len(words) == 500


@pytest.mark.parametrize(
    ("header", "members", "seconds"),
    [
        ("3", {}, 3),
        ("-3", {}, 0),
        (None, {"retry_after": 2.5}, 2.5),
        ("soon", {}, None),
        ("nan", {}, None),
        (None, {"retry_after": True}, None),
        (None, {}, None),
    ],
)
def test_retry_after(header: str | None, members: dict[str, object], seconds: float | None):
    headers = {} if header is None else {"Retry-After": header}
    assert retry_after(headers, members) == seconds


def test_retry_after_as_a_date():
    at = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert retry_after({"Retry-After": at}, None) == pytest.approx(60, abs=3)


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_metadata_as_deep_as_a_door_takes_it_comes_back_in_the_feed():
    changes = [{"metadata": nested(MAX_DEPTH)}, {"metadata": nested(MAX_DEPTH + 1)}]
    page = read_change_page(
        json.dumps({"changes": changes, "cursor": "c", "more": False}).encode(), CALL
    )
    good, bad = page.changes
    assert good == changes[0]
    assert isinstance(bad, BadJson)
    assert "nested" in bad.why


def test_a_problem_may_bring_metadata_as_deep():
    members = {"current": {"metadata": nested(MAX_DEPTH)}}
    assert read_problem(problem(**members)) == json.loads(problem(**members))
