from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.rag import make_point

from core.errors import IndexBusy, IndexCorrupt
from core.rag.edge import EdgeCollection
from core.rag.edge_files import file_sums, is_as_left
from core.rag.points import Conditions

MODEL = "sha256:" + "a" * 64
ROOT = Path(__file__).resolve().parents[4]


def open_edge(path: Path, fingerprint: str = MODEL) -> EdgeCollection:
    return EdgeCollection.open(path, model="m", fingerprint=fingerprint, wait_seconds=0.1)


def fill(path: Path, points: int = 100) -> None:
    collection = open_edge(path)
    collection.upsert([make_point(n, name=f"number {n}") for n in range(points)])
    collection.mark_rebuilt()
    collection.close()


def leave_as_killed(path: Path) -> None:
    """What a SIGKILL leaves: the manifest says that the collection is in use."""
    manifest = path.with_name(path.name + ".manifest.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"files": None}))


def flip(file: Path, at: int | None = None) -> None:
    middle = file.stat().st_size // 2 if at is None else at
    with file.open("r+b") as opened:
        opened.seek(max(0, middle - 16))
        content = opened.read(32)
        opened.seek(max(0, middle - 16))
        opened.write(bytes(byte ^ 0xFF for byte in content))


def answers_right(collection: EdgeCollection, points: int) -> bool:
    hits = collection.search(make_point(3).vector, Conditions(), points, fields=["name"])
    names = {hit.payload["name"] for hit in hits}
    return hits[0].payload["name"] == "number 3" and len(names) == points


def test_only_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    first = open_edge(path)
    with pytest.raises(IndexBusy, match="open in another process"):
        open_edge(path)
    first.close()
    open_edge(path).close()


def test_another_process_is_told_that_it_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    first = open_edge(path)
    code = (
        "import sys; from pathlib import Path\n"
        "from core.errors import IndexBusy\n"
        "from core.rag.edge import EdgeCollection\n"
        "try: EdgeCollection.open(Path(sys.argv[1]), model='m', fingerprint='f', wait_seconds=0.1)\n"
        "except IndexBusy: print('busy')"
    )
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "busy", result.stderr
    first.close()


def test_damage_to_any_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    fill(path, points=10)
    left = file_sums(path)
    files = [path / name for name, (size, _) in left.items() if size]
    assert len(files) > 20
    for file in files[::8]:
        flip(file)
        assert not is_as_left(path, left), file
        flip(file)  # and back
    assert is_as_left(path, left)


def test_damage_after_an_orderly_close_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    fill(path, points=10)
    flip(next(path.rglob("page_0.dat")))
    collection = open_edge(path)
    assert collection.needs_rebuild
    assert collection.count() == 0
    collection.close()


@pytest.mark.parametrize(
    ("pattern", "at"),
    [
        ("mutable_id_tracker.mappings", None),  # aborts the process that opens it
        ("vectors/chunk_0.mmap", 2000),  # opens, and would answer wrong
        ("payload_storage/page_0.dat", 300),
        ("segment.json", None),
        ("edge_config.json", None),
    ],
)
def test_damage_after_a_kill_is_noticed(tmp_path: Path, pattern: str, at: int | None) -> None:
    path = tmp_path / "user_playbooks"
    fill(path)
    leave_as_killed(path)
    flip(next(path.rglob(pattern)), at)
    collection = open_edge(path)
    assert collection.needs_rebuild
    assert collection.count() == 0
    collection.upsert([make_point(3, name="number 3")])
    assert answers_right(collection, 1)
    collection.close()


def test_a_kill_alone_costs_no_rebuild(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    fill(path)
    leave_as_killed(path)
    collection = open_edge(path)
    assert not collection.needs_rebuild
    assert answers_right(collection, 100)
    collection.close()


def test_another_model_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    fill(path)
    collection = open_edge(path, "sha256:" + "b" * 64)
    assert collection.needs_rebuild
    assert collection.count() == 0
    collection.close()


def test_a_lost_manifest_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    fill(path)
    path.with_name("user_playbooks.manifest.json").unlink()
    collection = open_edge(path)
    assert collection.needs_rebuild
    collection.close()


def test_an_engine_error_is_index_corrupt(tmp_path: Path) -> None:
    collection = open_edge(tmp_path / "user_playbooks")
    collection.close()
    with pytest.raises(IndexCorrupt, match="reindex"):
        collection.count()


def test_changed_payloads_pass_the_probe(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    fill(path, points=5)
    collection = open_edge(path)
    collection.set_payload({make_point(1).id: {"status": "archived"}})
    collection.delete([make_point(2).id])
    collection.close()
    leave_as_killed(path)
    again = open_edge(path)
    assert not again.needs_rebuild
    assert again.fetch([make_point(1).id], ["status"])[make_point(1).id] == {"status": "archived"}
    again.close()


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from support.rag import make_point
from core.rag.edge import EdgeCollection
collection = EdgeCollection.open(Path(sys.argv[1]), model="m", fingerprint={model!r})
for start in range(0, 100_000, 5):
    points = [make_point(n) for n in range(start, start + 5)]
    collection.upsert(points)
    print(*(point.id for point in points), flush=True)
"""


def test_sigkill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "user_playbooks"
    code = WRITER.format(root=str(ROOT), tests=str(ROOT / "tests"), model=MODEL)
    acknowledged: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged.update(line.split())
            if len(acknowledged) >= 60:
                os.kill(writer.pid, signal.SIGKILL)
                break
        acknowledged.update(writer.stdout.read().split())
    complete = {id_ for id_ in acknowledged if len(id_) == len(make_point(0).id)}
    assert len(complete) >= 60
    collection = open_edge(path)
    assert complete <= {id_ for id_, _ in collection.scroll([])}
    collection.close()
