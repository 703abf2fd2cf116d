from __future__ import annotations

from pathlib import Path

import pytest
from requests import PreparedRequest
from urllib3.util import parse_url

from core.errors import NotEscherServer, SettingsError
from core.server.url_policy import UrlPolicy
from core.settings import Settings

OWN = "https://escher.example"
S3 = "s3.eu-central-1.amazonaws.com"


def policy(tmp_path: Path, server_url: str = OWN, hosts: str = "") -> UrlPolicy:
    return UrlPolicy(Settings(home=tmp_path, server_url=server_url, download_hosts=hosts))


def allowed(policy: UrlPolicy, url: str) -> bool:
    try:
        policy.check(url)
    except NotEscherServer as error:
        return "CANARY" in f"{error!r} {error}"  # a refusal that shows a secret is none
    return True


@pytest.mark.parametrize(
    "url",
    [
        OWN + "/objects/a?signature=1",
        OWN + ":443/objects/a",
        "HTTPS://Escher.Example/a",
        OWN + "?x=/../y",
        f"https://escher-tenant-data.{S3}/tenants/a?X-Amz-Signature=1",
        f"https://escher-library.{S3}/playbooks/a",
        "https://escher-tenant-data.s3.amazonaws.com/a",
        "https://escher-tenant-data.s3.us-gov-west-1.amazonaws.com/a",
        "https://escher-tenant-data.s3.dualstack.eu-west-1.amazonaws.com/a",
        "https://escher-library.s3.cn-north-1.amazonaws.com.cn/a",
        f"https://{S3}/escher-tenant-data/tenants/a?X-Amz-Signature=1",
        "https://s3.amazonaws.com/escher-library/a",
    ],
)
def test_the_server_and_its_buckets_are_allowed(tmp_path, url):
    assert allowed(policy(tmp_path), url)


@pytest.mark.parametrize(
    "url",
    [
        # another host, or the right one made to look so
        "https://evil.example/a?signature=CANARY",
        "https://escher.example.evil.example/a",
        "https://notescher.example/a",
        OWN + ":8443/a",
        "https://escher.example./a",
        "https://sub.escher.example/a",
        # users and what parsers read differently
        "https://escher.example@evil.example/a",
        "https://CANARY:CANARY@escher.example/a",
        "https://evil.example\\@escher.example/a",
        "https://escher.example\\@evil.example/a",
        "https://evil.example#@escher.example/a",
        "https://evil.example?@escher.example/a",
        "https://escher.example\t/a",
        " https://escher.example/a",
        "https://escher.example/a\r\nHost: evil.example",
        "https:///escher.example/a",
        "https:escher.example/a",
        "//escher.example/a",
        "https://ⓔscher.example/a",
        "https://escher.example:99999999/a",
        "https://[escher.example]/a",
        "https://",
        "",
        "x" * 20_000,
        "https://escher.example/" + "a" * 20_000,
        # other schemes, plain http
        "http://escher.example/a",
        f"http://escher-tenant-data.{S3}/a",
        "file:///etc/passwd",
        "ftp://escher.example/a",
        "gopher://escher.example/a",
        # this machine, private networks, a cloud's metadata
        "http://127.0.0.1/a",
        "http://127.0.0.1:6379/a",
        "http://localhost:8787/v1/cache",
        "http://[::1]:8787/a",
        "https://127.0.0.1/a",
        "https://10.0.0.1/a",
        "https://192.168.1.1/a",
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/latest",
        "https://[::ffff:169.254.169.254]/latest",
        "https://2852039166/latest",
        "https://0xa9.0xfe.0xa9.0xfe/latest",
        "https://0/a",
        # S3, and another bucket, another service or another port of it
        f"https://evil.{S3}/a",
        f"https://escher-tenant-data.evil.{S3}/a",
        f"https://evil-escher-tenant-data.{S3}/a",
        f"https://{S3}/evil/escher-tenant-data/a",
        f"https://{S3}/escher-tenant-data/../evil/a",
        f"https://{S3}/escher-tenant-data/%2e%2e/evil/a",
        f"https://{S3}/escher-tenant-data/%252e%252e/evil/a",
        f"https://{S3}/./evil/a",
        f"https://{S3}/escher-tenant-data%2f..%2f/evil/a",
        f"https://{S3}",
        f"https://escher-tenant-data.{S3}:8443/a",
        f"https://escher-tenant-data.{S3}.evil.example/a",
        "https://escher-tenant-data.s3.evil.amazonaws.com/a",
        "https://escher-tenant-data.s3-website-us-east-1.amazonaws.com/a",
        "https://escher-tenant-data.ec2.us-east-1.amazonaws.com/a",
        "https://s3.evil.com/escher-tenant-data/a",
    ],
)
def test_all_else_is_refused(tmp_path, url):
    assert not allowed(policy(tmp_path), url)


def test_a_refusal_names_host_and_setting_and_no_secret(tmp_path):
    with pytest.raises(NotEscherServer) as caught:
        policy(tmp_path).check("https://10.0.0.7:9000/bucket/CANARY?signature=CANARY")
    assert "10.0.0.7:9000 (an address of this machine or a private network)" in caught.value.detail
    assert "download_hosts" in caught.value.remedy
    assert "CANARY" not in repr(caught.value)


def test_an_embedded_server_is_this_machine_at_its_port_only(tmp_path):
    embedded = policy(tmp_path, "http://127.0.0.1:8788")
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert allowed(embedded, f"http://{host}:8788/objects/a?signature=1")
        assert not allowed(embedded, f"http://{host}:8787/v1/cache")
    assert not allowed(embedded, "http://127.0.0.2:8788/a")
    assert not allowed(embedded, "http://127.0.0.1.evil.example:8788/a")


@pytest.mark.parametrize(
    ("entry", "yes", "no"),
    [
        ("cdn.example", ["https://cdn.example/a"], ["https://cdn.example:8443/a"]),
        ("CDN.example:8443", ["https://cdn.EXAMPLE:8443/a"], ["https://cdn.example/a"]),
        (
            "*.cdn.example",
            ["https://a.cdn.example/a", "https://a.b.cdn.example/a"],
            ["https://cdn.example/a", "https://evilcdn.example/a", "https://a.cdn.example:1/a"],
        ),
        ("*.cdn.example:9000", ["https://a.cdn.example:9000/a"], ["https://a.cdn.example/a"]),
        ("127.0.0.1:9000", ["http://127.0.0.1:9000/a"], ["http://127.0.0.1:9001/a"]),
        ("localhost", ["http://localhost/a"], ["http://localhost:8080/a"]),
        ("[::1]:9000", ["http://[::1]:9000/a"], ["http://[::1]/a"]),
        ("10.1.2.3:9000", ["https://10.1.2.3:9000/a"], ["http://10.1.2.3:9000/a"]),
        ("*.0.0.1", [], ["https://10.0.0.1/a"]),
    ],
)
def test_listed_hosts_are_added(tmp_path, entry, yes, no):
    listed = policy(tmp_path, hosts=f"other.example, {entry}")
    assert all(allowed(listed, url) for url in [*yes, OWN + "/a", "https://other.example/a"])
    assert not any(allowed(listed, url) for url in no)


@pytest.mark.parametrize("entry", ["https://cdn.example/", "*", "*.", "a b", "u@h", "h:port", "-"])
def test_an_entry_that_is_no_host_is_named(tmp_path, entry):
    listed = policy(tmp_path, hosts=entry)
    with pytest.raises(SettingsError, match="download_hosts") as caught:
        listed.check(OWN + "/a")
    assert repr(entry) in caught.value.detail


@pytest.mark.parametrize(
    "url", [f"https://{S3}/escher-library/a%2Fb;c=1//d?x=%2E%2E", OWN + "/a?b=c/../d&e=[]"]
)
def test_what_is_checked_is_what_is_called(tmp_path, url):
    """The parsers that open the connection see the same host and bucket."""
    policy(tmp_path).check(url)
    prepared = PreparedRequest()
    prepared.prepare(method="GET", url=url)
    called = parse_url(prepared.url or "")
    assert called.host == parse_url(url).host
    assert (called.path or "").split("/")[1] in {"escher-library", "a"}
