from __future__ import annotations

from pathlib import Path

import pytest
from requests import PreparedRequest
from urllib3.util import parse_url

from core.errors import ForbiddenUrl, SettingsError
from core.server.url_policy import UrlPolicy
from core.settings import Settings

OWN = "https://escher.example"
S3 = "s3.eu-central-1.amazonaws.com"


def policy(tmp_path: Path, server_url: str = OWN, hosts: str = "") -> UrlPolicy:
    return UrlPolicy(Settings(home=tmp_path, server_url=server_url, download_hosts=hosts))


def allowed(policy: UrlPolicy, url: str) -> bool:
    try:
        policy.check(url)
    except ForbiddenUrl as error:
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
        "httpſ://escher.example/a",
        "httpſ://escher.example:443/a",
        "https://eſcher.example/a",
        "https://download\u212aey.example/a",
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
        "https://127.1/a",
        "https://0177.0.0.1/a",
        "https://169.254.43518/latest",
        "https://metadata.google.internal/computeMetadata/v1/",
        "https://100.100.100.200/latest",
        "https://168.63.129.16/machine",
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
    with pytest.raises(ForbiddenUrl) as caught:
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


class TestNeverWhateverIsListed:
    """Link-local and metadata addresses, in each notation."""

    @pytest.mark.parametrize(
        "host",
        [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[2001:0:a9fe:a9fe::1]",
            "[fd12::5efe:a9fe:a9fe]",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "0.0.0.0",
            "[::]",
            "224.0.0.1",
            "255.255.255.255",
            "metadata.google.internal",
            "METADATA",
        ],
    )
    def test_an_address_of_that_kind(self, tmp_path, host):
        listed = policy(tmp_path, hosts=host)
        for doing in ("fetched from", "sent to"):
            with pytest.raises(ForbiddenUrl, match="link-local or metadata") as caught:
                listed.check(f"https://{host}/latest?signature=CANARY", doing)
            assert host.strip("[]").lower() in caught.value.detail
            assert "CANARY" not in repr(caught.value)

    @pytest.mark.parametrize(
        "host", ["2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376",
                 "169.254.43518", "169.16689662", "cdn.example.0x7f", "127.1"],
    )  # fmt: skip
    def test_a_number_that_a_library_takes_for_an_address(self, tmp_path, host):
        assert not allowed(policy(tmp_path, hosts=host), f"https://{host}/latest")

    @pytest.mark.parametrize(
        "url",
        [
            "https://escher.example%2e/a",
            "https://169.254.169.254%2eescher.example/a",
            "https://escher.example%00/a",
            "https://xn--scher-9ua.example/a",
            "https://еscher.example/a",
            "https://escher。example/a",
            "https://[fe80::1%25eth0]/a",
        ],
    )
    def test_a_host_made_to_look_like_ours(self, tmp_path, url):
        assert not allowed(policy(tmp_path), url)


def test_plain_http_goes_where_it_may_go_to_the_server_too(tmp_path):
    settings = Settings(
        home=tmp_path,
        server_url="http://escher.internal:8788",
        allow_http_hosts="escher.internal, store.internal",
        download_hosts="store.internal:80, other.internal:80",
    )
    inside = UrlPolicy(settings)
    assert allowed(inside, "http://escher.internal:8788/a")
    assert allowed(inside, "http://store.internal/a")
    assert not allowed(inside, "http://other.internal/a")
    with pytest.raises(ForbiddenUrl) as caught:
        inside.check("http://other.internal/a")
    assert "allow_http_hosts" in caught.value.remedy


class TestLoopback:
    @pytest.mark.parametrize(
        ("entry", "yes", "no"),
        [
            ("127.0.0.1:9000", "http://127.0.0.1:9000/a", "http://127.0.0.1:9001/a"),
            ("localhost", "http://localhost/a", "http://localhost:8080/a"),
            ("[::1]:9000", "http://[::1]:9000/a", "http://[::1]/a"),
        ],
    )
    def test_is_listed_only_where_the_server_is_on_this_machine(self, tmp_path, entry, yes, no):
        here = policy(tmp_path, "http://127.0.0.1:8788", hosts=entry)
        assert allowed(here, yes)
        assert not allowed(here, no)
        assert not allowed(policy(tmp_path, hosts=entry), yes)

    def test_a_mapped_one_is_loopback_too(self, tmp_path):
        listed = policy(tmp_path, hosts="[::ffff:127.0.0.1]:9000")
        assert not allowed(listed, "https://[::ffff:127.0.0.1]:9000/a")


class TestAddressesOfAName:
    """What a name leads to is judged, and only that is connected to."""

    S3_HOST = "escher-library.s3.amazonaws.com"

    def addresses(self, tmp_path, host, told, *, server_url=OWN, hosts="", port=443):
        asked = []

        def resolve(name, port, **_):
            asked.append(name)
            return [(None, None, None, "", (address, port)) for address in told]

        settings = Settings(home=tmp_path, server_url=server_url, download_hosts=hosts)
        found = UrlPolicy(settings, resolve).addresses(host, port)
        assert asked == [host]
        return found

    def test_a_public_one_is_called(self, tmp_path):
        assert self.addresses(tmp_path, self.S3_HOST, ["52.1.2.3"]) == ["52.1.2.3"]

    @pytest.mark.parametrize(
        "told",
        ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "fd00:ec2::254",
         "100.100.100.200", "0.0.0.0", "64:ff9b::a9fe:a9fe", "not an address"],
    )  # fmt: skip
    @pytest.mark.parametrize("host", ["escher.example", "cdn.example", S3_HOST])
    def test_no_name_leads_to_link_local(self, tmp_path, host, told):
        with pytest.raises(ForbiddenUrl, match=f"{host}.*link-local"):
            self.addresses(tmp_path, host, [told], hosts="cdn.example")

    @pytest.mark.parametrize("told", ["10.0.0.7", "192.168.1.1", "172.16.0.1", "fd12::1",
                                      "100.64.0.1", "::ffff:10.0.0.7", "64:ff9b::10.0.0.7"])  # fmt: skip
    def test_a_private_one_is_the_server_s_own_or_listed(self, tmp_path, told):
        assert self.addresses(tmp_path, "escher.example", [told])
        assert self.addresses(tmp_path, "a.cdn.example", [told], hosts="*.cdn.example")
        for host, port in ((self.S3_HOST, 443), ("escher.example", 8443)):
            with pytest.raises(ForbiddenUrl, match="private") as caught:
                self.addresses(tmp_path, host, [told], port=port)
            assert "download_hosts" in caught.value.remedy

    @pytest.mark.parametrize("told", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
    def test_loopback_is_only_where_the_server_is(self, tmp_path, told):
        assert self.addresses(tmp_path, "escher.example", [told])
        here = "http://localhost:8788"
        assert self.addresses(tmp_path, "localhost", [told], server_url=here, port=8788)
        for host in ("cdn.example", self.S3_HOST):
            with pytest.raises(ForbiddenUrl, match="this machine"):
                self.addresses(tmp_path, host, [told], hosts="cdn.example")

    def test_the_good_ones_of_a_mixed_answer_are_called_and_no_other(self, tmp_path):
        told = ["169.254.169.254", "52.1.2.3", "10.0.0.1", "2600:1f00::1"]
        found = self.addresses(tmp_path, self.S3_HOST, told)
        assert found == ["52.1.2.3", "2600:1f00::1"]


def test_a_server_at_another_loopback_address_is_on_this_machine(tmp_path):
    here = policy(tmp_path, "http://127.0.0.2:8788", hosts="127.0.0.1:9000")
    assert allowed(here, "http://127.0.0.2:8788/a")
    assert allowed(here, "http://127.0.0.1:9000/a")
    assert not allowed(here, "http://127.0.0.1:8788/a")
