"""docs/library.md says what the docstrings say, and its example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/library_reference.py", "--check"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_its_example_runs_as_printed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    code = found[1].replace("/srv/escher", str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + "\nprint(path.read_bytes().splitlines()[0].decode())"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "#!/bin/sh", done.stderr
