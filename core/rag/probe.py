"""Opens a collection in a process of its own and looks at every point.

A damaged collection can abort the process that opens it (qdrant-edge 0.9.0 on a damaged id map:
an allocation of 100 GB, SIGABRT), which no ``except`` catches. So after anything but an orderly
close, this runs first, as ``python -m core.rag.probe FOLDER``: exit code 0 for a collection whose
every point is what was written, anything else for one that is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.rag.collection import TERMS_VECTOR

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard

CHECK_FIELD = "point_check"  # payload field of the embedded collection only
_PAGE = 256
_TIMEOUT_SECONDS = 600.0  # 100,000 points take some 10 s


def point_check(vector: Sequence[float], terms: Any, payload: dict[str, Any]) -> str:
    """A digest of a point as the engine gives it back; ``terms`` has ``indices`` and ``values``."""
    import numpy as np

    digest = hashlib.blake2b(digest_size=12)
    digest.update(np.asarray(vector, dtype="<f4").tobytes())
    digest.update(np.asarray(terms.indices, dtype="<u4").tobytes())
    digest.update(np.asarray(terms.values, dtype="<f4").tobytes())
    plain = {key: value for key, value in payload.items() if key != CHECK_FIELD}
    digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()


def is_sound(folder: Path) -> bool:
    """Whether a process of its own could open ``folder`` and found every point as written."""
    # the child imports from where this process does, installed or not, but the current folder
    places = [place for place in sys.path if Path(place).is_absolute()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-P", "-m", "core.rag.probe", str(folder.absolute())]
    try:
        result = subprocess.run(
            command,
            env=environment,
            cwd="/",
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def check_points(shard: EdgeShard) -> int:
    """The number of points, all of them sound; raises `ValueError` for the first that is not."""
    from qdrant_edge import CountRequest, ScrollRequest

    seen, offset = 0, None
    while True:
        records, offset = shard.scroll(
            ScrollRequest(offset=offset, limit=_PAGE, with_payload=True, with_vector=True)
        )
        for record in records:
            vectors: Any = record.vector
            payload = record.payload or {}
            check = point_check(vectors[""], vectors[TERMS_VECTOR], payload)
            if check != payload.get(CHECK_FIELD):
                raise ValueError(f"point {record.id} is not what was written")
        seen += len(records)
        if offset is None:
            break
    counted = shard.count(CountRequest(exact=True))
    if counted != seen:
        raise ValueError(f"{counted} points are counted, {seen} can be read")
    return seen


def main(folder: str) -> int:
    from qdrant_edge import EdgeShard

    shard = EdgeShard.load(folder)  # a bare Exception, a panic or an abort all end this process
    points = check_points(shard)
    shard.close()
    print(points)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
