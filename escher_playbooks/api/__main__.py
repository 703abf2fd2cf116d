"""``python -m escher_playbooks.api``: the HTTP API in the foreground, as `up` starts it."""

from __future__ import annotations

import os
import sys

import uvicorn

from core.errors import EscherError
from core.files import UMASK
from core.settings import load_settings
from core.terminal import one_line, set_up_logging

SHUTDOWN_SECONDS = 5
KEEP_ALIVE_SECONDS = 75


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    os.umask(UMASK)
    set_up_logging()
    try:
        settings = load_settings()
        from escher_playbooks.api.app import (
            create_app,  # it reads the settings, too: a wrong one is told below
        )

        app = create_app(settings)
    except EscherError as error:
        sys.stderr.write(one_line(f"{error.title}: {error}") + "\n")
        return error.exit_code
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        access_log=False,  # escher_playbooks.api.metrics logs requests, without their query strings
        log_level="info",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
