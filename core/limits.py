"""Lists how much a version may have, for the client and the reference server alike; imports nothing.

What one side takes the other takes: a playbook that `create` stores can be published, pulled and
resolved. A file may be larger only where both sides are set so (``max_script_size_mb`` here,
``max_file_bytes`` there).
"""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20

FILES: Final = 2000
"""Files of a version, without ``metadata.json``."""
VERSION_BYTES: Final = 1024 * MIB
"""Of all files of a version."""
FILE_BYTES: Final = 64 * MIB
"""Of one file, unless both sides are set otherwise."""
METADATA_BYTES: Final = MIB
"""Of ``metadata.json``."""
PATH_BYTES: Final = 1024
"""Of a file's path, relative to the version's folder, in UTF-8."""
NAME_BYTES: Final = 255
"""Of one part of a path, in UTF-8: more fits into no file system in use."""

ANNOUNCED_FILES: Final = 1000
"""Files in one announcement; those of a version with more add up."""
BODY_BYTES: Final = 24 * MIB
"""Of a call's JSON: that many files with paths of that length, each named twice and escaped."""
