"""What `down` leaves behind, without a service running."""

from __future__ import annotations

from core.scripts.clear_text import ClearText
from core.settings import Settings


def test_down_removes_clear_text(run, home):
    clear = ClearText(Settings(home=home))
    lease = clear.write({"shell/run.sh": b"echo CANARY-SECRET\n"})
    assert run("down").code == 0
    assert not lease.folder.exists()
    assert clear.leases() == []
