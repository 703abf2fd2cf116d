from __future__ import annotations

from escher_server.playbook_rules import precedence


def test_precedence_is_semver_s() -> None:
    versions = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0"]
    assert sorted(set(versions), key=precedence) == versions
