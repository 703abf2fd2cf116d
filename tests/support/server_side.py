"""What the server holds, held against the disk."""

from __future__ import annotations

from core.files import sha256_bytes
from core.models import Ref
from support.service import ServiceUnderTest


def server_objects(service: ServiceUnderTest) -> dict[Ref, dict[str, str]]:
    """``{ref: {path: checksum}}`` as the server's own changes feed tells it."""
    found: dict[Ref, dict[str, str]] = {}
    with service.service() as opened:
        cursor, more = None, True
        while more:
            page = opened.server.change_page(cursor, 500)
            for change in page.changes:
                assert isinstance(change, dict)
                ref = Ref(change["playbook_id"], change["version"])
                found[ref] = {file["path"]: file["checksum"] for file in change["files"]}
            cursor, more = page.cursor, page.more
    return found


def stored_bytes(service: ServiceUnderTest) -> dict[str, int]:
    """``{digest: size}`` of every object file on the server's disk, hashed here again."""
    objects = service.settings.server_data_path / "objects"
    contents = (path.read_bytes() for path in objects.rglob("*") if path.is_file())
    return {sha256_bytes(content): len(content) for content in contents}


def assert_server_equals_disk(service: ServiceUnderTest, versions: int) -> None:
    """Every file of every version, hashed on this disk, is at the server under its path."""
    there, objects = server_objects(service), stored_bytes(service)
    assert len(there) == versions
    synced = service.home / "playbooks" / "synced"
    for ref, files in there.items():
        folder = synced / ref.playbook_id / f"v{ref.version}"
        on_disk = {
            path.relative_to(folder).as_posix(): sha256_bytes(path.read_bytes())
            for path in folder.rglob("*")
            if path.is_file() and path.name != "metadata.json"
        }
        assert files == on_disk, ref
        assert set(files.values()) <= set(objects), ref
