"""Install the project and its development tools into the environment of this interpreter.

torch comes first, from the CPU index when it can be reached within a few seconds: on Linux the
plain index serves a build with gigabytes of CUDA libraries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

PROBE_SECONDS = 5
ROOT = Path(__file__).resolve().parent.parent


def pip(*arguments: str) -> None:
    """Run this environment's pip and end with its exit code when it fails."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def is_reachable(url: str) -> bool:
    """Whether an index answers quickly; pip itself would wait and retry for minutes."""
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=PROBE_SECONDS) as answer:  # noqa: S310  the Makefile's own URL
            return bool(answer.status == 200)  # noqa: PLR2004  HTTP OK
    except (urllib.error.URLError, OSError, ValueError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-index", default="")
    index = parser.parse_args().torch_index
    print("installing (the first time takes some minutes) …", flush=True)
    extra = ["--extra-index-url", index] if index and is_reachable(index) else []
    pip("-c", "constraints.txt", *extra, "torch")
    pip("-c", "constraints.txt", "-e", ".[dev]")


if __name__ == "__main__":
    main()
