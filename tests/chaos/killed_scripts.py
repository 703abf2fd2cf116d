"""Dies at every step of a resolve that downloads and evicts, and looks at what is left.

``python killed_scripts.py TEMPLATE_HOME``, run by ``test_killed_scripts.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from support.die_at_step import die_before, in_child
from support.homes import MemoryCollection
from support.rag import WordEmbedder

from core.files import sha256_bytes
from core.service import PlaybookService
from core.settings import Settings

MAX_STEPS = 400
KILLED = -9
# the two old ones fill the cache, so that the new one needs room
OLD, NEW = ("old-one@1.0.0", "old-two@1.0.0"), "new-one@1.0.0"
CAP_MB = 0.1


def settings(home: Path) -> Settings:
    return Settings(
        home=home,
        cache_max_size_mb=CAP_MB,
        cache_lease_seconds=0,
        _env_file=None,  # type: ignore[call-arg]
    )


def resolve(service: PlaybookService, ref: str) -> str:
    script = service.locate_script(ref, "shell")
    return sha256_bytes(script.path.read_bytes())


def scenario(home: Path, step: int) -> None:
    with PlaybookService.open(settings(home)) as service:
        die_before(step, home)
        resolve(service, NEW)
        # everything is too old by now
        service.settings.cache_ttl_days = 1e-9
        service.script_manager.evict()


def check(home: Path, expected: dict[str, str]) -> None:
    # no search is asked: a collection of files would be made anew each time
    collection: Any = MemoryCollection()
    with PlaybookService(settings(home), embedder=WordEmbedder(), collection=collection) as service:
        service.store.writer.recover()
        service.script_manager.recover()
        report = service.verify()
        assert report.clean, report.as_json()
        for ref in (NEW, *OLD):
            assert resolve(service, ref) == expected[ref], ref
        service.script_manager.evict()
        report = service.verify()
        assert report.clean, report.as_json()
        cache = service.settings.cache_path
        left = [p for d in ("staging", "trash") for p in (cache / d).rglob("*") if p.is_file()]
        assert not left, left
        usage = service.script_manager.usage(limit=None)
        assert usage["reserved_bytes"] == 0, usage
        assert usage["used_bytes"] <= usage["max_bytes"]


def main(template: str) -> None:
    expected = json.loads(os.environ["EXPECTED"])
    home = Path(template).with_name("home-under-the-knife")
    step = 0
    while True:
        step += 1
        assert step < MAX_STEPS
        shutil.copytree(template, home, symlinks=True)
        code = in_child(lambda: scenario(home, step))  # noqa: B023  run at once
        assert code in {0, KILLED}, f"step {step}: {code}"
        verdict = in_child(lambda: check(home, expected))
        assert verdict == 0, f"after a kill at step {step}"
        shutil.rmtree(home)
        if code == 0:
            break
    print(f"{step - 1} steps")


if __name__ == "__main__":
    main(sys.argv[1])
