"""Secrets in what may leave this machine: found at intake, shown before an upload, stopped there.

::

    bytes ──► contents (encodings, archives) ──► patterns + assignments (lines) ──► scanner
                                                                                      │
    SecretsGate: scans each file's content once, keeps the result by checksum  ◄──────┘
                 off · warn · block, with what the user accepted

Names are imported from the modules: this one stays empty, as `core.models` needs the findings only.
"""
