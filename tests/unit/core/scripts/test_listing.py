from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import EscherError, IntegrityError, NotEscherServer, NotFound, Refused
from core.limits import FILES
from core.models import FileEntry, Ref, ScriptKey
from core.scripts.downloads import check_version
from core.scripts.integrity import check_offer, difference, mismatch
from core.server.answers import Script, ScriptFile
from core.settings import Settings

KEY = ScriptKey(Ref("stop-rds", "1.0.0"), "shell")
CHECKSUM = "sha256:" + "0" * 64
SETTINGS = Settings(_env_file=None)


def answer(*paths, size=10, entry=None, **changes):
    files = [
        ScriptFile(
            path=path, url="https://x/?s=1", checksum=CHECKSUM, size_bytes=size, expires_at=1
        )
        for path in paths
    ]
    entry = entry or (paths[0] if paths else None)
    said = {"playbook_id": "stop-rds", "version": "1.0.0", "format": "shell", **changes}
    return Script(files=files, entry_point=entry, **said)


def offer(script, **settings):
    return check_offer(script, KEY, SETTINGS.model_copy(update=settings))


def test_a_good_listing_is_sorted_and_keeps_its_urls():
    found = offer(answer("shell/b.sh", "shell/a/c.sh", entry="shell/b.sh"))
    assert [file.path for file in found.listing.files] == ["shell/a/c.sh", "shell/b.sh"]
    assert found.listing.entry_point == "shell/b.sh"
    assert found.files["shell/b.sh"].url == "https://x/?s=1"


@pytest.mark.parametrize(
    "path",
    [
        "shell/../../etc/passwd", "/etc/passwd", "shell/./x", "shell//x", "shell/x\n", "shell/x.",
        "shell\\x", "terraform/x.tf", "shell", "metadata.json", "C:/x", "",
        "shell/" + "x" * 300, "shell/x/" * 200,
    ],
)  # fmt: skip
def test_a_name_that_is_not_safe_or_elsewhere_is_refused(path):
    with pytest.raises(NotEscherServer):
        offer(answer("shell/a.sh", path))


@pytest.mark.parametrize(
    "paths",
    [
        ("shell/a", "shell/A"),
        ("shell/a", "shell/a"),
        ("shell/a", "shell/A/b"),
        ("shell/\u00e9", "shell/e\u0301"),
    ],
)
def test_names_that_would_meet_on_a_disk_are_refused(paths):
    with pytest.raises(NotEscherServer):
        offer(answer(*paths))


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_whatever_is_accepted_stays_in_its_folder(names):
    try:
        found = offer(answer(*(f"shell/{name}" for name in names)))
    except EscherError:
        return
    for file in found.listing.files:
        parts = file.path.split("/")
        assert parts[0] == "shell"
        assert len(parts) > 1
        assert not {"", ".", ".."} & set(parts)
        assert "\0" not in file.path


@pytest.mark.parametrize(
    "changes", [{"playbook_id": "other"}, {"version": "2.0.0"}, {"format": "arm"}, {"format": None}]
)
def test_an_answer_about_something_else_is_refused(changes):
    with pytest.raises(NotEscherServer):
        offer(answer("shell/a.sh", **changes))


def test_the_entry_point_is_one_of_the_files():
    with pytest.raises(NotEscherServer):
        offer(answer("shell/a.sh", entry="shell/b.sh"))


def test_limits_are_named_with_their_setting():
    with pytest.raises(NotFound):
        offer(answer())
    with pytest.raises(Refused, match=str(FILES)):
        offer(answer(*(f"shell/{number}" for number in range(FILES + 1))))
    with pytest.raises(Refused, match="max_script_size_mb"):
        offer(answer("shell/a.sh", size=(1 << 20) + 1), max_script_size_mb=1)
    with pytest.raises(Refused, match="cache_max_size_mb"):
        offer(answer("shell/a.sh", "shell/b.sh", size=600_000), cache_max_size_mb=1)


def test_the_first_difference_is_named():
    one, two = FileEntry("shell/a", 1, CHECKSUM), FileEntry("shell/b", 2, CHECKSUM)
    assert difference([one, two], [two, one]) is None
    assert difference([one], [one, two]) == "shell/b"
    assert difference([FileEntry("shell/a", 2, CHECKSUM), two], [one]) == "shell/a"
    error = mismatch(KEY, "shell/b")
    assert isinstance(error, IntegrityError)
    assert "shell/b" in str(error)


@pytest.mark.parametrize(
    "changes", [{"version": "latest"}, {"version": "../1"}, {"playbook_id": "x"}]
)
def test_a_latest_version_is_a_version_of_that_playbook(changes):
    assert check_version(answer("shell/a"), "stop-rds") == KEY.ref
    with pytest.raises(NotEscherServer):
        check_version(answer("shell/a", **changes), "stop-rds")
