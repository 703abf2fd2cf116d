"""The wheel, as a stranger installs it: it writes over nobody's file, and works without the sources."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder

ROOT = Path(__file__).resolve().parents[2]
NAME = "escher-playbook-service"
SOURCES = ("core", "tasks", "escher_playbooks", "escher_server")


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=env, cwd=cwd, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "celeryconfig.py"):
        shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--no-index", "--disable-pip-version-check", "--wheel-dir", out, copy,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        rows = csv.reader(io.StringIO(archive.read(record).decode()))
    return {row[0] for row in rows}


def test_no_file_of_it_is_a_dependencys_too(wheel: Path) -> None:
    ours = files_of(wheel)
    assert {"core/service/__init__.py", "escher_playbooks/cli/main.py"} <= ours
    theirs: dict[str, str] = {}
    for found in metadata.distributions():
        name = found.name  # parsed each time that it is asked for
        if name != NAME:
            theirs |= {str(path): name for path in found.files or []}
    assert len(theirs) > 1000  # the dependencies are installed here
    tops = {name.split("/")[0] for name in theirs}
    assert {name: theirs[name] for name in ours & theirs.keys()} == {}
    # not the same package either: `python-hcl2`, once a dependency, ships a package `cli`
    assert not tops & {name.split("/")[0] for name in ours}


def test_installed_alone_it_does_its_job(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", "--disable-pip-version-check", wheel,
    )  # fmt: skip
    # its dependencies are this environment's: nothing is fetched
    (site / "dependencies.pth").write_text(
        "".join(f"{path}\n" for path in {sysconfig.get_path("purelib"), *_shared_folders()})
    )
    home = tmp_path / "home"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ESCHER_HOME": str(home)}
    folder = write_folder(tmp_path / "playbook", draft("Stop idle databases"))

    command = venv / "bin" / "escher-playbooks"
    made = json.loads(run(command, "create", folder, "--json", env=env, cwd=elsewhere))
    code = (
        "import json, core, tasks, celeryconfig\n"
        "from escher_playbooks import PlaybookConfig, PlaybookService, NotFound\n"
        "with PlaybookService.open(PlaybookConfig()) as service:\n"
        f"    found = service.get_playbook({made['playbook_id']!r})\n"
        f"    path = service.resolve_script({made['playbook_id']!r}, 'shell')\n"
        "    try:\n"
        "        service.get_playbook('not-there')\n"
        "    except NotFound as error:\n"
        "        told = error.remedy\n"
        "print(json.dumps([found.ref.version, str(path), told, core.__file__, tasks.__file__,"
        " celeryconfig.__file__]))\n"
    )
    version, path, told, *origins = json.loads(run(python, "-c", code, env=env, cwd=elsewhere))
    assert version == made["version"]
    assert Path(path).read_bytes()
    assert told
    assert [Path(origin).is_relative_to(site) for origin in origins] == [True, True, True]


def _shared_folders() -> list[str]:
    """Site folders of this environment beside its own, where it shares another's packages."""
    return [entry for entry in sys.path if entry.endswith("site-packages")]
