"""How much of a playbook is taken in; looked at before anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import InvalidPlaybook
from core.models import METADATA_FILE
from core.settings import Settings

MIB = 1 << 20
MAX_METADATA_BYTES = MIB
MAX_FILES = 2000
MAX_DEPTH = 6  # folders between the one that is given and a playbook's
TOTAL_FACTOR = 4
DEFAULT_FILE_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one file, bytes of a whole version, files of a version."""

    file_bytes: int = DEFAULT_FILE_BYTES
    total_bytes: int = TOTAL_FACTOR * DEFAULT_FILE_BYTES
    files: int = MAX_FILES

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """From ``max_script_size_mb``; a whole version may have four times that."""
        file_bytes = int(settings.max_script_size_mb * MIB)
        return cls(file_bytes, TOTAL_FACTOR * file_bytes)

    def check(self, sizes: Iterable[tuple[str, int]], where: str = "") -> None:
        """Refuse ``(path, bytes)`` of one version that are too many or too large."""
        inside = f" in {where}" if where else ""
        total = count = 0
        for path, size in sizes:
            cap = MAX_METADATA_BYTES if path == METADATA_FILE else self.file_bytes
            if size > cap:
                raise InvalidPlaybook(
                    f"{path}{inside} has {_mib(size)} MiB; at most {_mib(cap)} are taken.",
                    "Make it smaller, or fetch large data at run time."
                    if path == METADATA_FILE
                    else "Raise max_script_size_mb, or fetch large data at run time.",
                )
            total, count = total + size, count + 1
            if total > self.total_bytes:
                raise InvalidPlaybook(
                    f"The files{inside} have more than {_mib(self.total_bytes)} MiB together.",
                    "Raise max_script_size_mb (a version may have four times that), or split it.",
                )
            if count > self.files:
                raise InvalidPlaybook(
                    f"More than {self.files} files{inside}.", "Split the playbook."
                )


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}".removesuffix(".0")
