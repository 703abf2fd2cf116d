"""SIGKILL at every step of a download and an eviction; then all is well, by itself."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.remote_playbooks import publish_remotely, random_script
from support.service import ServiceUnderTest

from core.files import sha256_bytes
from core.models import Ref

TESTS = Path(__file__).resolve().parents[1]
FEWEST_STEPS = 15


@pytest.mark.timeout(400)
def test_whatever_step_it_dies_at(server_only: ServiceUnderTest) -> None:
    dice = random.Random(3)
    contents = {ref: random_script(dice, 45_000) for ref in ("old-one", "old-two", "new-one")}
    env = server_only.env | {"ESCHER_CACHE_MAX_SIZE_MB": "0.1", "ESCHER_CACHE_LEASE_SECONDS": "0"}
    with server_only.service() as opened:
        for name, content in contents.items():
            publish_remotely(opened.server, Ref(name, "1.0.0"), {"shell/run.sh": content})
        opened.settings.cache_max_size_mb = 0.1
        for name in ("old-one", "old-two"):
            opened.locate_script(f"{name}@1.0.0", "shell")
    digests = {f"{name}@1.0.0": sha256_bytes(content) for name, content in contents.items()}
    done = subprocess.run(
        [sys.executable, str(TESTS / "chaos" / "killed_scripts.py"), str(server_only.home)],
        env=env
        | {
            "EXPECTED": json.dumps(digests),
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        },
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    steps = int(done.stdout.split()[0])
    assert steps >= FEWEST_STEPS, "the steps are no longer seen"
