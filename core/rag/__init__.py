"""Local search: embedding (loaded late), the ``user_playbooks`` collection, ranking.

::

    index.PlaybookIndex         what the rest of the service talks to
    ├── embedding               text → 384 numbers, on this machine
    ├── points · terms          a playbook version → one point: vector, terms, payload
    ├── collection              the interface, kept by
    │   ├── edge                the embedded engine, and its manifest and probe
    │   └── remote              a Qdrant server
    └── search · keywords       who is visible, in which order; and the way without a model

Importing any of it loads neither torch nor sentence-transformers.
"""
