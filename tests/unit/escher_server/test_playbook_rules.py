from __future__ import annotations

import pytest

from escher_server.playbook_rules import entry_point, precedence


@pytest.mark.parametrize(
    ("paths", "named", "expected"),
    [
        (["shell/a.sh", "shell/b.sh"], {"shell": "shell/b.sh"}, "shell/b.sh"),
        (["shell/a.sh", "shell/b.sh"], {"shell": "b.sh"}, "shell/b.sh"),
        (["shell/only.sh", "arm/main.json"], None, "shell/only.sh"),
        (["shell/a.sh", "shell/main.sh", "shell/template.sh"], None, "shell/main.sh"),
        (["shell/a.sh", "shell/template.yaml"], None, "shell/template.yaml"),
        (["shell/azuredeploy.json", "shell/a.json"], None, "shell/azuredeploy.json"),
        (["shell/b.sh", "shell/a.sh"], None, "shell/a.sh"),
        (["arm/main.json"], None, None),
    ],
)
def test_the_entry_script(
    paths: list[str], named: dict[str, str] | None, expected: str | None
) -> None:
    assert entry_point("shell", paths, named) == expected


def test_precedence_is_semver_s() -> None:
    versions = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0"]
    assert sorted(set(versions), key=precedence) == versions
