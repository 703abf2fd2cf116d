"""A process that resolves scripts as soon as it is let go; prints ``{ref: [source, checksum]}``.

``python resolve_many.py READY GO SEED REF…``; the home comes from the environment.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from core.files import sha256_bytes
from core.service import PlaybookService

WAIT_SECONDS = 120


def main(ready: str, go: str, seed: str, *refs: str) -> None:
    order = list(refs)
    random.Random(int(seed)).shuffle(order)
    answers = {}
    with PlaybookService.open() as service:
        Path(ready).touch()
        deadline = time.monotonic() + WAIT_SECONDS
        while not Path(go).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        for ref in order:
            script = service.locate_script(ref, "shell")
            answers[ref] = [script.source.value, sha256_bytes(script.path.read_bytes())]
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
