"""Five hundred downloads over a network that cuts, stalls, refuses and lies.

Every one ends with the right bytes or with a clear error, the cache never holds a wrong byte, and
once the network behaves, what failed works.
"""

from __future__ import annotations

import collections
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from support.remote_playbooks import publish_remotely, random_script
from support.service import ServiceUnderTest

from core.errors import EscherError
from core.files import sha256_bytes
from core.models import Ref
from core.service import PlaybookService

SEED = 20261123
AIMED = 400  # one script each, its own fault on its own object
SCATTERED = 120  # faults by dice, on listings and objects alike
LISTING = "/api/script/download"
OVERCOME = (
    *("cut", "cut_often", "reset", "stall", "busy", "limited", "expired"),
    *("wrong_byte", "short", "longer", "gzip_bomb", "html"),
)
HOPELESS = ("always_wrong", "always_cut_at_once", "always_bombed")
SIZES = (60, 700, 5_000, 40_000, 300_000)


def _rules_for(dice: random.Random, digest: str, size: int) -> tuple[str, list[dict[str, Any]]]:
    """A fault for one object, and what it is called in the count."""
    kind = dice.choice([*OVERCOME, *HOPELESS])
    path, at = f"/objects/.*{digest.removeprefix('sha256:')}", dice.randrange(size)
    rule: dict[str, Any] = {"path": path, "method": "GET", "count": 1}
    match kind:
        case "cut":
            rules = [{**rule, "action": "truncate_body", "at": at}]
        case "cut_often":
            rules = [{**rule, "action": "truncate_body", "at": at} for _ in range(3)]
        case "reset":
            rules = [{**rule, "action": "reset"}]
        case "stall":
            rules = [{**rule, "action": "stall", "latency_seconds": 0.3}]
        case "busy":
            rules = [{**rule, "action": "status", "status": 503, "retry_after": 0}]
        case "limited":
            rules = [{**rule, "action": "status", "status": 429, "retry_after": 1}]
        case "expired":
            cut = {**rule, "action": "truncate_body", "at": at}
            rules = [cut, {**rule, "action": "expire_urls"}]  # half-way
        case "wrong_byte":
            rules = [{**rule, "action": "wrong_byte", "at": at}]
        case "short":
            rules = [{**rule, "action": "short_body", "at": at}]
        case "longer":
            rules = [{**rule, "action": "longer_body", "extra_bytes": 1 + at}]
        case "gzip_bomb":
            rules = [{**rule, "action": "gzip_bomb"}]
        case "always_bombed":
            rules = [{**rule, "action": "gzip_bomb", "count": None}]
        case "always_wrong":
            rules = [{**rule, "action": "wrong_byte", "at": at, "count": None}]
        case "always_cut_at_once":
            rules = [{**rule, "action": "truncate_body", "at": 0, "count": None}]
        case _:
            rules = [{**rule, "action": "html"}]
    return kind, rules


def _set_faults(service: ServiceUnderTest, rules: list[dict[str, Any]]) -> None:
    token = (service.home / "server.token").read_text().strip()
    answer = requests.put(
        f"{service.settings.server_url}/api/reference/faults",
        json=rules,
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text


def _assert_cache_is_right(service: ServiceUnderTest, truth: dict[Ref, bytes]) -> None:
    """Every byte below ``cache/scripts`` is one that was published, and nothing lies in staging."""
    cache = service.settings.cache_path
    for path in (cache / "scripts").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(cache / "scripts").parts[0]
            playbook_id, _, version = name.rpartition("-v")
            assert path.read_bytes() == truth[Ref(playbook_id, version)], path
    assert not [path for path in (cache / "staging").rglob("*") if path.is_file()]


@pytest.mark.timeout(600)
def test_every_download_ends_right_or_with_a_clear_error(
    server_only: ServiceUnderTest, capsys: pytest.CaptureFixture[str]
) -> None:
    server = server_only
    dice = random.Random(SEED)
    truth: dict[Ref, bytes] = {}
    faults: list[dict[str, Any]] = []
    kinds: dict[Ref, str] = {}
    with server.service() as opened:
        for number in range(AIMED + SCATTERED):
            ref = Ref(f"script-{number}", "1.0.0")
            truth[ref] = random_script(dice, dice.choice(SIZES))
            if number < AIMED:
                digest = sha256_bytes(truth[ref])
                kinds[ref], rules = _rules_for(dice, digest, len(truth[ref]))
                faults += rules
        with ThreadPoolExecutor(8) as pool:
            files = ({"shell/run.sh": content} for content in truth.values())
            list(
                pool.map(lambda ref, file: publish_remotely(opened.server, ref, file), truth, files)
            )
        sent_before = opened.server.reference_stats()["bytes_sent"]

        aimed = list(truth)[:AIMED]
        _set_faults(server, faults)
        failed = _resolve_all(opened, aimed, truth)
        _assert_cache_is_right(server, truth)
        by_kind = collections.Counter(kinds[ref] for ref in failed)
        # a single fault is overcome; what is wrong every time fails, every time
        assert set(by_kind) == set(HOPELESS), by_kind
        assert sum(by_kind.values()) == sum(kinds[ref] in HOPELESS for ref in aimed)

        scattered = list(truth)[AIMED:]
        _set_faults(server, _by_dice(dice))
        failed += _resolve_all(opened, scattered, truth)
        _assert_cache_is_right(server, truth)

        _set_faults(server, [])
        assert _resolve_all(opened, failed, truth) == []
        _assert_cache_is_right(server, truth)
        sent = opened.server.reference_stats()["bytes_sent"] - sent_before
        assert opened.verify().clean
    needed = sum(map(len, truth.values()))
    with capsys.disabled():
        print(
            f"\n{len(truth)} downloads, seed {SEED}: {len(truth) - len(failed)} right at once, "
            f"{len(failed)} clear errors {dict(by_kind)}; {sent} bytes sent for {needed}, "
            f"{sent - needed} of them twice"
        )


def _by_dice(dice: random.Random) -> list[dict[str, Any]]:
    actions: list[dict[str, Any]] = [
        {"action": "status", "status": 503, "retry_after": 0, "path": LISTING},
        {"action": "reset", "path": LISTING},
        {"action": "html", "path": LISTING},
        {"action": "wrong_checksum", "path": LISTING},
        {"action": "truncate_body", "path": LISTING},
        {"action": "truncate_body", "path": "/objects/", "at": 33},
        {"action": "wrong_byte", "path": "/objects/"},
        {"action": "reset", "path": "/objects/"},
        {"action": "expire_urls", "path": "/objects/"},
    ]
    return [
        {"count": None, "probability": 0.06, "seed": dice.randrange(1 << 30), "method": "GET"} | it
        for it in actions
    ]


def _resolve_all(opened: PlaybookService, refs: list[Ref], truth: dict[Ref, bytes]) -> list[Ref]:
    """Resolve each; those that ended with a clear error. Wrong bytes fail the test."""

    errors: list[str] = []

    def resolve(ref: Ref) -> bool:
        try:
            script = opened.locate_script(str(ref), "shell")
        except EscherError as error:
            errors.append(str(error))
            return False
        assert script.path.read_bytes() == truth[ref]
        assert script.listing.entry.checksum == sha256_bytes(truth[ref])
        return True

    with ThreadPoolExecutor(8) as pool:
        failed = [
            ref for ref, right in zip(refs, pool.map(resolve, refs), strict=True) if not right
        ]
    assert not [error for error in errors if not error or "signature=" in error.lower()]
    return failed
