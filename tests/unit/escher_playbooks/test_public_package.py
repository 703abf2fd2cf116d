"""What `from escher_playbooks import …` offers, and what it says of somebody else's modules."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import escher_playbooks
from core import errors
from core.service import PlaybookService
from core.settings import Settings

ROOT = Path(escher_playbooks.__file__).parents[1]


def test_every_public_name_is_there() -> None:
    assert escher_playbooks.PlaybookService is PlaybookService
    assert escher_playbooks.PlaybookConfig is Settings
    for name in escher_playbooks.__all__:
        assert inspect.isclass(getattr(escher_playbooks, name)), name
    assert set(escher_playbooks.__all__) <= set(dir(escher_playbooks))
    with pytest.raises(AttributeError, match="no attribute 'helpers'"):
        _ = escher_playbooks.helpers  # type: ignore[attr-defined]


def test_every_exception_of_ours_is_public() -> None:
    ours = {
        name
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, errors.EscherError)
    }
    assert ours <= set(escher_playbooks.__all__)


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    lines = "".join(f"sys.path.insert(0, {str(entry)!r}); " for entry in reversed(path))
    return subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; {lines}{code}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_importing_it_loads_none_of_what_it_offers() -> None:
    done = run(
        "import escher_playbooks; print([m for m in sys.modules if m.startswith('core')])", ROOT
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("theirs", ["core.py", "core/__init__.py", "tasks.py", "tasks/__init__.py"])
def test_a_file_that_shadows_ours_is_named(theirs: str, tmp_path: Path) -> None:
    file = tmp_path / theirs
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    done = run("import escher_playbooks", tmp_path, ROOT)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert str(file) in last
    assert "Rename that file" in last


def test_one_that_was_imported_before_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "core.py").write_text("")
    done = run("import core, escher_playbooks", tmp_path, ROOT)
    assert done.returncode == 1
    assert str(tmp_path / "core.py") in done.stderr


def test_a_package_of_the_same_name_behind_ours_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "core.py").write_text("")
    done = run("import escher_playbooks; print('fine')", ROOT, tmp_path)
    assert done.stdout == "fine\n", done.stderr
