"""Thirty-two processes ask for the same fifty scripts at once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support import resolve_many
from support.remote_playbooks import publish_remotely, random_script
from support.service import ServiceUnderTest, eventually

from core.files import sha256_bytes
from core.models import Ref

PROCESSES, SCRIPTS, SEED = 32, 50, 20261123


@pytest.mark.timeout(400)
def test_fifty_downloads_for_sixteen_hundred_right_answers(
    server_only: ServiceUnderTest, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    truth = {f"wanted-{number}@1.0.0": random_script(dice, 20_000) for number in range(SCRIPTS)}
    with server_only.service() as opened:
        for ref, content in truth.items():
            publish_remotely(opened.server, Ref.parse(ref), {"shell/run.sh": content})
        sent = opened.server.reference_stats()["bytes_sent"]

    go = tmp_path / "go"
    program = str(Path(resolve_many.__file__))
    processes = [
        subprocess.Popen(
            [sys.executable, program, str(tmp_path / f"ready-{n}"), str(go), str(n), *truth],
            env=server_only.env | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    try:
        ready = lambda: len(list(tmp_path.glob("ready-*"))) == PROCESSES  # noqa: E731
        eventually(ready, 200, "all processes are ready")
        go.touch()
        outputs = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    answers = [json.loads(out) if out else pytest.fail(err[-2000:]) for out, err in outputs]

    expected = {ref: sha256_bytes(content) for ref, content in truth.items()}
    for answer in answers:
        assert {ref: checksum for ref, (_, checksum) in answer.items()} == expected
    with server_only.service() as opened:
        stats = opened.server.reference_stats()
        assert stats["bytes_sent"] - sent == sum(map(len, truth.values())), "each was sent once"
        usage = opened.script_manager.usage(limit=None)
    # those who waited for another's download missed, too
    came_by_download = sum(source == "download" for a in answers for source, _ in a.values())
    assert SCRIPTS <= came_by_download < PROCESSES * SCRIPTS
    assert usage["misses"] == came_by_download
    assert usage["hits"] == PROCESSES * SCRIPTS - came_by_download
