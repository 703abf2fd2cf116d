"""What `doctor` notices without a running service."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from core.encryption import load_master_key
from core.journal import Journal
from core.settings import Settings, load_settings
from escher_playbooks.cli import checks, checks_network, doctor
from escher_playbooks.cli.checks import Finding


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return load_settings(home=home)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_new_home_is_well_and_nothing_is_made_in_it(settings: Settings) -> None:
    findings = [
        finding
        for finding in doctor.examine(settings)
        if not finding.name.startswith("port")  # another service may run on this machine
    ]

    assert not [finding for finding in findings if not finding.ok]
    assert not list(settings.home.iterdir())


def test_every_fault_has_a_remedy(settings: Settings) -> None:
    load_master_key(settings)
    settings.key_path.chmod(0o644)
    settings.api_token_path.write_text("token")
    settings.api_token_path.chmod(0o640)
    (settings.home / "journal.db").write_bytes(b"not a database, for sure" * 100)
    settings.home.chmod(0o777)
    (settings.home / "cache").symlink_to(settings.home.parent)

    found = by_name(list(doctor.examine(settings)))

    for name in ("home", "modes", "links", "encryption key", "API token", "journal"):
        assert not found[name].ok, name
        assert found[name].remedy, name
    assert "chmod 700" in found["home"].remedy
    assert "chmod 600" in found["encryption key"].remedy


def test_weights_that_are_not_there_are_named(tmp_path: Path, settings: Settings) -> None:
    settings.embedding_model = str(tmp_path / "nowhere")
    (finding,) = checks.embedding_model(settings)
    assert not finding.ok
    assert finding.remedy


def test_the_model_is_looked_at_without_loading_it(settings: Settings) -> None:
    (finding,) = checks.embedding_model(settings)
    assert finding.ok
    assert "sha256:53aa51172d14" in finding.detail


def test_a_port_that_somebody_else_has(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.api_port = taken.getsockname()[1]
        found = by_name(list(checks_network.listening_ports(settings)))
    finding = found[f"port {settings.api_port}"]
    assert not finding.ok
    assert "ESCHER_API_PORT" in finding.remedy


def test_a_server_elsewhere_that_is_no_escher_server(settings: Settings) -> None:
    settings.server_url = "http://127.0.0.1:1"
    (finding,) = checks_network.server(settings)
    assert not finding.ok
    assert finding.remedy


def test_changes_that_were_not_finished(settings: Settings) -> None:
    from core.journal.folders import Intent
    from core.models import Ref

    journal = Journal(settings.effective_journal_url)
    journal.intents.begin([Intent(ref=Ref("stop-idle", "1.0.0"), kind="delete")])
    journal.close()

    found = by_name(list(checks.journal(settings)))

    assert found["journal"].ok
    assert "stop-idle@1.0.0" in found["unfinished changes"].detail
    assert not found["unfinished changes"].ok
